#!/bin/bash
# The network of a machine, as an operator's: the underlay with a default route to the peer first, what lies behind the
# gateway, and last the WireGuard device. What the tunnels protect would leave by the default route until then.
own=$1 other=$((3 - $1)) etc=/etc/qhybridd
ip link set lo up
ip link add lan type dummy
for net in 77 78 79; do ip address add 10.$net.$own.1/24 dev lan; done
ip link set lan up
ip address add 192.0.2.$own/24 dev eth0
ip link set eth0 up
ip route add default via 192.0.2.$other
sysctl -qw net.ipv4.ip_forward=1
sleep 1
ip link add wg-wan type wireguard
wg set wg-wan listen-port 51820 private-key $etc/wireguard.key peer "$(cat $etc/wireguard.peer)" \
  endpoint 192.0.2.$other:51820 allowed-ips 10.78.$other.0/24
ip link set wg-wan up
ip route add 10.78.$other.0/24 dev wg-wan src 10.78.$own.1
