#!/bin/sh
# Run as root in the virtual machine: the main verbs, on cgroup v2 and an older kernel.
set -e
dockerd-rs -H unix:///run/s.sock --data-root /var/lib/drs --exec-root /run/drs --pidfile /run/pid >/run/log 2>&1 &
export DOCKER_HOST=unix:///run/s.sock
for _ in 1 2 3 4 5 6 7 8 9 10; do docker version >/dev/null 2>&1 && break; sleep 1; done
mkdir -p /run/root/bin /run/root/etc && cp /bin/busybox /run/root/bin/ && for a in sh echo true sleep cat; do ln -s busybox /run/root/bin/$a; done
tar -C /run/root -cf - . | docker import - busybox:latest
test "$(docker run --rm --network none busybox echo hello)" = hello
docker run --rm --network none -m 64m --cpus 0.5 --pids-limit 20 busybox true
docker run -d --name box --network none busybox sleep 1000
test "$(docker exec box echo inside)" = inside
docker pause box && docker unpause box
docker rm -f box
cat /run/log
