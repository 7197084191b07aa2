"""`qhybridd bench`: how fast this machine distils, stage by stage and as a whole."""
