#!/busybox sh
# The first process of a machine: mounts the host's root (read-only, over 9p) below a tmpfs, the two disks over it, and
# goes on with what the kernel's command line names as `then=` (a script of the run's directory, or systemd).
b=/busybox
$b mkdir -p /proc /sys /dev /low /up /new
$b mount -t proc proc /proc
$b mount -t devtmpfs dev /dev
for module in $($b cat /order); do $b insmod "/$module" || echo "init: $module was refused"; done
for word in $($b cat /proc/cmdline); do
  case "$word" in tree=*) tree="${word#tree=}" ;; python=*) python="${word#python=}" ;; then=*) next="${word#then=}" ;; esac
done
options=trans=virtio,version=9p2000.L,msize=524288
$b mount -t 9p -o "$options,ro,cache=loose" root /low || exec $b poweroff -f
$b mount -t tmpfs -o mode=755 up /up
$b mkdir /up/data /up/work
$b mount -t overlay -o lowerdir=/low,upperdir=/up/data,workdir=/up/work root /new
$b mount --move /proc /new/proc
$b mount --move /dev /new/dev
$b mount -t sysfs sys /new/sys
$b mount -t tmpfs -o mode=1777 tmp /new/tmp
$b mount -t tmpfs -o mode=755 run /new/run
$b mkdir -p /new/dev/pts /new/dev/shm /new/run/deps
$b ln -s /proc/self/fd /new/dev/fd
for number in 0:stdin 1:stdout 2:stderr; do $b ln -s "/proc/self/fd/${number%:*}" "/new/dev/${number#*:}"; done
$b mount -t devpts -o mode=620,ptmxmode=666 devpts /new/dev/pts
$b mount -t tmpfs shm /new/dev/shm
$b mkdir -p "/new$tree" "/new$python"
for disk in vda vdb; do until [ -b "/new/dev/$disk" ]; do $b usleep 50000; done; done
$b mount -t ext4 /new/dev/vda /new/run/deps && $b mount -t ext4 /new/dev/vdb "/new$tree" || exec $b poweroff -f
$b mkdir -p "/new$tree/.venv" "/new$tree/build"
$b mount --bind /new/run/deps/venv "/new$tree/.venv"
$b mount --bind /new/run/deps/python "/new$python"
$b mount -t 9p -o "$options,cache=none" build "/new$tree/build"
exec $b switch_root /new $(echo "$next" | $b tr , " ")
