#!/bin/bash
# Goes on from init.sh: makes the host's files a small gateway with the units installed, and becomes systemd.
# What must outlive a reset of the machine (/etc/qhybridd, /var/lib/qhybridd) lies on a disk.
export PATH=/usr/sbin:/usr/bin:/sbin:/bin SYSTEMD_OFFLINE=1
name=$1 number=$2 tree=$(realpath "$(dirname "$0")/../..")
kept=/run/deps/kept
if ! test -d $kept; then
  mkdir -p $kept/state
  cp -r "$tree/build/machine/gateways/$name" $kept/etc
  chown -R root:root $kept && chmod -R go= $kept
fi
mkdir -p /etc/qhybridd /var/lib/qhybridd
mount --bind $kept/etc /etc/qhybridd
mount --bind $kept/state /var/lib/qhybridd
echo "$name" >/etc/hostname
rm -f /.dockerenv /run/.containerenv # a machine, not a container
: >/etc/fstab
test -s /etc/machine-id || tr -d - </proc/sys/kernel/random/uuid >/etc/machine-id
printf 'flush ruleset\ntable inet filter {\n  chain input { type filter hook input priority 0; }\n}\n' >/etc/nftables.conf
rm -rf /lib/systemd/system-generators /etc/systemd/system /usr/local/lib/systemd/system /opt/qhybridd
mkdir -p /etc/systemd/system
# As `make install` puts them; the virtual environment of the tests stands for one of the daemon's own.
cp -r "$tree"/systemd/* /etc/systemd/system/
ln -s "$tree/.venv" /opt/qhybridd
case $(realpath "$tree/.venv/bin/python") in
  /root/* | /home/*) # a Python of a developer's own; the units hide these directories
    for unit in qhybridd qhybridd-guard qhybridd-sleep; do
      mkdir -p /etc/systemd/system/$unit.service.d
      printf '[Service]\nProtectHome=read-only\n' >/etc/systemd/system/$unit.service.d/python.conf
    done ;;
esac
cp "$tree"/tests/machines/units/* /etc/systemd/system/
sed -i "s|@TREE@|$tree|; s|@NUMBER@|$number|g; s|@OTHER@|$((3 - number))|g" /etc/systemd/system/test-*
mkdir -p /etc/systemd/journald.conf.d /etc/systemd/system.conf.d
printf '[Manager]\nDefaultTimeoutStartSec=600\nShowStatus=no\n' >/etc/systemd/system.conf.d/emulated.conf
printf '[Journal]\nStorage=volatile\nForwardToConsole=yes\nMaxLevelConsole=info\n' >/etc/systemd/journald.conf.d/console.conf
systemctl -q mask getty.target getty-static.service systemd-logind.service systemd-hwdb-update.service ldconfig.service \
  systemd-journal-catalog-update.service systemd-timesyncd.service systemd-firstboot.service systemd-sysusers.service \
  proc-sys-fs-binfmt_misc.automount systemd-binfmt.service systemd-udev-trigger.service systemd-random-seed.service \
  systemd-update-utmp.service systemd-update-utmp-runlevel.service systemd-user-sessions.service dbus.service dbus.socket \
  systemd-repart.service systemd-pstore.service sys-kernel-debug.mount sys-kernel-tracing.mount sys-kernel-config.mount \
  sys-fs-fuse-connections.mount dev-hugepages.mount dev-mqueue.mount systemd-tmpfiles-clean.timer \
  systemd-udevd.service systemd-udevd-control.socket systemd-udevd-kernel.socket systemd-tmpfiles-setup-dev.service \
  systemd-journal-flush.service systemd-modules-load.service kmod-static-nodes.service systemd-remount-fs.service \
  systemd-ask-password-console.path systemd-ask-password-wall.path cryptsetup.target integritysetup.target veritysetup.target
systemctl -q enable nftables qhybridd test-agent test-underlay test-ping@77 test-ping@78 test-ping@79
modprobe -qab tun wireguard esp4 xfrm_user nft_xfrm nft_socket gcm chacha20poly1305 ccm dummy virtio_net
exec /lib/systemd/systemd
