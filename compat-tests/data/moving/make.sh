#!/bin/sh
# Makes a data root with the stock daemon, for the tests of `import-docker-root`.
#
#   make.sh ROOTFS STORE OUT     ROOTFS: a root file system with docker.io (`cargo xtask compat` has one)
#                                STORE: overlay2, or containerd for the containerd image store
#                                OUT: what is made, a tar.gz: root/ is the data root, with owners, attributes and device
#                                nodes; answers/ is what the stock daemon said of it
#
# Needs root, gcc, python3 and the docker CLI. Runs in a network and a mount namespace of its own.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
rootfs=$(cd "$1" && pwd) store=$2 out=$(realpath "$3")
work=$(mktemp -d) inside=/stock-root-$$
running=
docker="docker -H unix://$work/docker.sock"
finish() {
    for pid in $running; do kill -9 "$pid" 2>/dev/null || true; done
    rm -rf "$work" "$rootfs$inside" "$rootfs$work"
}
trap finish EXIT
gcc -Os -static -nostdlib -ffreestanding -fno-asynchronous-unwind-tables -fno-stack-protector -s \
    -Wl,--build-id=none -Wl,-z,norelro -o "$work/tool" "$here/tool.c"
python3 "$here/images.py" "$work" "$work/tool"
mkdir -p "$rootfs$inside/data" "$work/answers" "$rootfs$work"

# The root is pivoted to, as `cargo xtask compat` does it; `exec` in containers needs that.
enter='r=$1; w=$2; shift 2; set -e; ip link set lo up; mount --bind "$r" "$r"; mount -t proc proc "$r/proc"
mount -t sysfs sysfs "$r/sys"; mount --rbind /sys/fs/cgroup "$r/sys/fs/cgroup"; mount --rbind /dev "$r/dev"
mount -t tmpfs tmpfs "$r/run"; mount --bind "$w" "$r$w"; export PATH=/usr/sbin:/usr/bin:/sbin:/bin
mkdir -p "$r/.old"; cd "$r"; pivot_root . .old; cd /; umount -l /.old; echo $$ >"$w/dockerd.pid"; exec "$@"'
start() {
    unshare --net --mount --propagation private sh -c "$enter" sh "$rootfs" "$work" dockerd -H "unix://$work/docker.sock" \
        --data-root "$inside/data" --exec-root "$inside/exec" --pidfile "$inside/pid" $flags >>"$work/log" 2>&1 &
    for _ in $(seq 300); do $docker version >/dev/null 2>&1 && running=$(cat "$work/dockerd.pid") && return; sleep 0.1; done
    tail -5 "$work/log"; exit 1
}
flags="--storage-driver overlay2"
[ "$store" = overlay2 ] || flags="--feature containerd-snapshotter=true"
start
$docker load -i "$work/docker.tar"
[ "$store" = overlay2 ] || $docker load -i "$work/oci.tar"
$docker volume create --label kept=yes --label other= moving-volume
$docker run --name moving-changed --hostname moved --label role=changed --env A=b --restart on-failure:1 \
    --memory 64m --network none -v moving-volume:/data -v /etc:/mnt:ro --log-opt max-size=1m moving-a:1 || true
until [ "$($docker inspect -f '{{.State.Status}} {{.RestartCount}}' moving-changed)" = "exited 1" ]; do sleep 0.1; done
$docker commit --change 'ENV FROM=commit' -m 'a commit' moving-changed moving-committed:latest
$docker create --name moving-created -p 8080:80 -it moving-a:latest wait
$docker network create moving-network
$docker create --name moving-network-user --network moving-network --network-alias alias moving-a:1
$docker run -d --name moving-running --network none moving-a:1 /bin/tool wait
a=$work/answers
$docker images --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}' | sort >"$a/images"
for image in moving-a:1 example.com/team/moving-b:2 moving-committed:latest; do
    $docker history --no-trunc --format '{{.CreatedBy}}|{{.Size}}|{{.Comment}}' "$image"
done >"$a/history"
$docker diff moving-changed | sort >"$a/diff"
$docker logs -t moving-changed >"$a/stdout" 2>"$a/stderr"
$docker inspect moving-changed moving-created moving-network-user >"$a/inspect"
$docker volume inspect moving-volume >"$a/volume"
# Killed: what ran is left as running, the databases are not closed.
pid=$($docker inspect -f '{{.State.Pid}}' moving-running)
shim=$(cut -d ' ' -f 4 "/proc/$pid/stat")
daemon=$(cat "$work/dockerd.pid")
running="$daemon $(cat "/proc/$daemon/task/$daemon/children") $shim $pid"
for pid in $running; do kill -9 "$pid" || true; done
for pid in $running; do while [ -e "/proc/$pid" ]; do sleep 0.1; done; done
running=
cd "$rootfs$inside/data"
rm -rf buildkit runtimes plugins swarm tmp network/files/local-kv.db.lock
rm -rf containerd/daemon/io.containerd.snapshotter.v1.[!o]* containerd/daemon/io.containerd.grpc* \
    containerd/daemon/tmpmounts containerd/daemon/io.containerd.runtime*
tar --xattrs --xattrs-include='*' --numeric-owner --sort=name --one-file-system --transform 's,^\./,root/,' -czf "$out" \
    . -C "$work" answers
