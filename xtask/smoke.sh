#!/bin/sh
# Run as root in the virtual machine of `cargo xtask vm`: the main verbs, on cgroup v2 and an older kernel. Every check runs,
# whatever the ones before it said; the last line says how many failed.
set -u
state=/var/lib/smoke
# Network of the containers whose checks are not about networks.
net=${SMOKE_NETWORK:-bridge}
export DOCKER_HOST=unix:///run/smoke.sock
failed=0
passed=0

# check NAME COMMAND...: the command must succeed.
check() {
  name=$1
  shift
  if "$@" >/run/check.out 2>&1; then
    passed=$((passed + 1))
    echo "ok - $name"
  else
    echo "NOT OK - $name (code $?)"
    sed 's/^/    /' /run/check.out | tail -n 6
    failed=$((failed + 1))
  fi
}

# same NAME WANTED COMMAND...: the command must print exactly that on its standard output.
same() {
  name=$1
  wanted=$2
  shift 2
  got=$("$@" 2>/run/check.err)
  if [ "$got" = "$wanted" ]; then
    passed=$((passed + 1))
    echo "ok - $name"
  else
    echo "NOT OK - $name: printed '$got', not '$wanted'"
    tail -n 3 /run/check.err | sed 's/^/    /'
    failed=$((failed + 1))
  fi
}

# code NAME WANTED COMMAND...: the command must end with that code.
code() {
  name=$1
  wanted=$2
  shift 2
  "$@" >/run/check.out 2>&1
  got=$?
  if [ $got = "$wanted" ]; then
    passed=$((passed + 1))
    echo "ok - $name"
  else
    echo "NOT OK - $name: ended with $got, not $wanted"
    tail -n 3 /run/check.out | sed 's/^/    /'
    failed=$((failed + 1))
  fi
}

# eventually NAME WANTED COMMAND...: the command must print that within a bounded time.
eventually() {
  name=$1
  wanted=$2
  shift 2
  for _ in $(seq 300); do
    got=$("$@" 2>/dev/null)
    if [ "$got" = "$wanted" ]; then
      passed=$((passed + 1))
      echo "ok - $name"
      return
    fi
    usleep 100000
  done
  echo "NOT OK - $name: still '$got', not '$wanted'"
  failed=$((failed + 1))
}

run() { docker run --rm --network "$net" "$@"; }
field() { docker inspect -f "$2" "$1"; }
# A number of /proc/self/status inside a container: status NAME ARGUMENTS...
status() {
  line=$1
  shift
  run "$@" busybox sh -c "grep ^$line: /proc/self/status" | tr -d '\t ' | cut -d: -f2
}

start_daemon() {
  dockerd-rs -H "$DOCKER_HOST" --data-root "$state" --exec-root /run/smoke --pidfile /run/smoke.pid >>/run/smoke.log 2>&1 &
  daemon=$!
  for _ in $(seq 200); do
    docker version >/dev/null 2>&1 && return
    usleep 50000
  done
  echo "the daemon does not answer"
  cat /run/smoke.log
  exit 1
}

import_image() {
  mkdir -p /run/root/bin /run/root/etc /run/root/tmp /run/root/data
  cp /bin/busybox /run/root/bin/
  for applet in $(busybox --list); do [ "$applet" = busybox ] || ln -sf busybox "/run/root/bin/$applet"; done
  echo 'root:x:0:0:root:/root:/bin/sh' >/run/root/etc/passwd
  echo from-image >/run/root/data/file
  tar -C /run/root -cf - . | docker import --change 'CMD ["sh"]' - busybox:latest >/dev/null
}

start_daemon
echo "storage driver: $(docker info -f '{{.Driver}}'), kernel: $(uname -r)"
import_image

# --- what a run is
same "run" hello run busybox echo hello
code "exit code" 3 run busybox sh -c 'exit 3'
code "no such program" 127 run busybox nosuch
code "not a program" 126 run busybox /etc
code "killed by a signal" 143 run --init busybox sh -c 'kill -TERM $$'
code "bad option is 125" 125 run --memory nonsense busybox true
same "environment, directory, user" "v /tmp 1" run -e E=v -w /tmp -u 1 busybox sh -c 'echo $E $PWD $(id -u)'
same "standard input" typed sh -c "echo typed | docker run -i --rm --network $net busybox cat"
same "init" 1 run --init busybox sh -c 'grep -c init /proc/1/comm'
same "host name" boxes run --hostname boxes busybox hostname
same "read-only root" 1 run --read-only busybox sh -c 'touch /x 2>/dev/null; echo $?'
same "tmpfs" 1 run --tmpfs /scratch busybox grep -c ' /scratch tmpfs' /proc/mounts
same "size of /dev/shm" 1 run --shm-size 8m busybox sh -c 'grep -c "/dev/shm.*size=8192k" /proc/mounts'
same "ulimit" 77 run --ulimit nofile=77 busybox sh -c 'ulimit -n'
same "sysctl" 12345 run --sysctl kernel.shmmni=12345 busybox cat /proc/sys/kernel/shmmni
check "the host's processes" run --pid host busybox sh -c '[ "$(cat /proc/1/comm)" != sh ]'

# --- cgroup version 2
same "memory.max" 67108864 run -m 64m busybox cat /sys/fs/cgroup/memory.max
same "memory.swap.max is as much again" 67108864 run -m 64m busybox cat /sys/fs/cgroup/memory.swap.max
same "memory.low" 33554432 run --memory-reservation 32m busybox cat /sys/fs/cgroup/memory.low
same "cpu.max" "50000 100000" run --cpus 0.5 busybox cat /sys/fs/cgroup/cpu.max
same "cpu.max by period and quota" "20000 40000" run --cpu-period 40000 --cpu-quota 20000 busybox cat /sys/fs/cgroup/cpu.max
check "cpu.weight" run --cpu-shares 512 busybox sh -c '[ "$(cat /sys/fs/cgroup/cpu.weight)" -lt 100 ]'
same "cpuset.cpus" 1 run --cpuset-cpus 1 busybox cat /sys/fs/cgroup/cpuset.cpus
same "pids.max" 20 run --pids-limit 20 busybox cat /sys/fs/cgroup/pids.max
check "pids.max holds" run --pids-limit 6 busybox sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 2 & done 2>&1 | grep -qi "fork"'
same "a cgroup namespace of its own" "0::/" run busybox cat /proc/self/cgroup
same "the cgroup tree is read-only" 1 run busybox sh -c 'mkdir /sys/fs/cgroup/x 2>/dev/null; echo $?'
code "out of memory is 137" 137 docker run --name oom --network "$net" -m 32m --memory-swap 32m busybox tail /dev/zero
same "out of memory is known" "true 137" field oom '{{.State.OOMKilled}} {{.State.ExitCode}}'
docker rm oom >/dev/null

# --- a container that stays
docker run -d --name box --network "$net" -m 64m busybox sleep 1000 >/dev/null
same "exec" inside docker exec box echo inside
code "exit code of exec" 7 docker exec box sh -c 'exit 7'
code "exec of what is not there" 127 docker exec box nosuch
same "exec with user, directory, environment" "1 /tmp v" docker exec -u 1 -w /tmp -e E=v box sh -c 'echo $(id -u) $PWD $E'
same "exec is in the container's cgroup" 67108864 docker exec box cat /sys/fs/cgroup/memory.max
check "pause" docker pause box
same "paused" "paused true" field box '{{.State.Status}} {{.State.Paused}}'
code "no exec while paused" 1 docker exec box true
check "unpause" docker unpause box
same "runs on" running field box '{{.State.Status}}'
check "top" sh -c 'docker top box | grep -q "sleep 1000"'
check "stop" docker stop -t 1 box
same "stopped by force" "exited 137" field box '{{.State.Status}} {{.State.ExitCode}}'
check "start again" docker start box
check "kill" docker kill -s KILL box
eventually "killed" exited field box '{{.State.Status}}'
check "remove" docker rm box

# --- more layers than the options of an overlay have room for in one text
many_layers() {
  docker create --name layers --network none busybox sh >/dev/null
  for n in $(seq 20); do
    echo $n >/run/n
    docker cp -q /run/n layers:/n$n && docker commit layers many >/dev/null && docker rm layers >/dev/null &&
      docker create --name layers --network none many sh >/dev/null || return 1
  done
  docker rm layers >/dev/null
}
check "an image of many layers" many_layers
same "and a container of it" "1 20" run many sh -c 'echo $(cat /n1) $(cat /n20)'
check "image rm" docker rmi many

# --- restart policies
docker run -d --name again --network "$net" --restart on-failure:2 busybox false >/dev/null
eventually "restarted twice, then left" "exited 2 1" field again '{{.State.Status}} {{.RestartCount}} {{.State.ExitCode}}'
docker rm -f again >/dev/null

# --- networks
docker run -d --name web -p 127.0.0.1:8080:80 busybox sh -c 'echo served >/tmp/index.html; httpd -f -p 80 -h /tmp' >/dev/null
address=$(field web '{{.NetworkSettings.Networks.bridge.IPAddress}}')
eventually "a published port" served wget -qO- http://127.0.0.1:8080/
same "another container" served docker run --rm busybox wget -qO- "http://$address/"
same "from the host" served wget -qO- "http://$address/"
same "no network" lo docker run --rm --network none busybox ls /sys/class/net
same "another container's network" "$address" docker run --rm --network container:web busybox sh -c "ip -4 -o addr show eth0 | tr / ' ' | tr -s ' ' | cut -d' ' -f4"
check "the host's network" docker run --rm --network host busybox ls /sys/class/net/docker0
docker rm -f web >/dev/null
code "the port is closed again" 1 wget -qO- http://127.0.0.1:8080/

# --- links of parents, which few kernels of test machines have
ip link add uplink type dummy
ip link set uplink up
# neighbours NAME SUBNET CREATE-ARGUMENTS...: two containers of such a network reach each other by name.
neighbours() {
  kind=$1
  subnet=$2
  shift 2
  check "$kind: network create" docker network create --subnet "$subnet" "$@" parented
  docker run -d --name near --network parented busybox sh -c 'echo near >/tmp/index.html; httpd -f -p 80 -h /tmp' >/dev/null
  eventually "$kind: another container" near docker run --rm --network parented busybox wget -qO- http://near/
  docker rm -f near >/dev/null
  check "$kind: network rm" docker network rm parented
}
neighbours macvlan 10.60.0.0/24 -d macvlan -o parent=uplink
neighbours "macvlan without a parent" 10.60.1.0/24 -d macvlan
neighbours ipvlan 10.60.2.0/24 -d ipvlan -o parent=uplink
neighbours "ipvlan l3" 10.60.3.0/24 -d ipvlan -o parent=uplink -o ipvlan_mode=l3
neighbours "ipvlan l3s" 10.60.4.0/24 -d ipvlan -o parent=uplink -o ipvlan_mode=l3s
neighbours "ipvlan without a parent" 10.60.5.0/24 -d ipvlan
neighbours "ipvlan of IPv6 alone" fd00:60::/64 -d ipvlan -o parent=uplink --ipv4=false --ipv6
docker network create -d ipvlan -o parent=uplink -o ipvlan_mode=l3 --subnet 10.61.0.0/24 --subnet 10.62.0.0/24 routed >/dev/null
docker run -d --name far --network routed --ip 10.62.0.9 busybox sh -c 'echo far >/tmp/index.html; httpd -f -p 80 -h /tmp' >/dev/null
eventually "ipvlan l3: another subnet" far docker run --rm --network routed --ip 10.61.0.9 busybox wget -qO- http://10.62.0.9/
same "ipvlan l3: a default route without a gateway" 1 docker exec far sh -c "ip route | grep -c '^default dev eth0'"
docker rm -f far >/dev/null
docker network rm routed >/dev/null
check "a parent that is a virtual LAN is made" docker network create -d macvlan -o parent=uplink.50 --subnet 10.63.0.0/24 tagged
same "its number" 50 sh -c "sed -n 's/.*VID: \([0-9]*\).*/\1/p' /proc/net/vlan/uplink.50"
check "a container on it" docker run --rm --network tagged busybox ip link show eth0
check "and it goes with the network" docker network rm tagged
code "it is gone" 1 test -e /proc/net/vlan/uplink.50
same "no parents are left" 0 sh -c 'ls /sys/class/net | grep -c "^d[im]-"'
for mode in private vepa passthru; do
  check "macvlan in mode $mode" docker network create -d macvlan -o parent=uplink -o macvlan_mode=$mode --subnet 10.64.0.0/24 moded
  same "a container in mode $mode" eth0 docker run --rm --network moded busybox sh -c 'ls /sys/class/net | grep eth'
  docker network rm moded >/dev/null
done
ip link del uplink

# --- SCTP
docker run -d --name streams -p 127.0.0.1:7001:7000/sctp -v /:/host:ro busybox \
  chroot /host sh -c 'while echo streamed | ncat --sctp -l -p 7000 --send-only; do true; done' >/dev/null
address=$(field streams '{{.NetworkSettings.Networks.bridge.IPAddress}}')
eventually "SCTP to a container" streamed ncat --sctp --recv-only "$address" 7000
eventually "SCTP to a published port" streamed ncat --sctp --recv-only 127.0.0.1 7001
same "the published port is told" "127.0.0.1:7001" docker port streams 7000/sctp
code "and taken" 125 docker run --rm -p 127.0.0.1:7001:7000/sctp busybox true
docker rm -f streams >/dev/null

# --- volumes
same "a new volume has the image's files" from-image run -v vol:/data busybox cat /data/file
run -v vol:/data busybox sh -c 'echo kept >/data/file'
same "a volume keeps what was written" kept run -v vol:/data busybox cat /data/file
mkdir -p /run/bound && echo host >/run/bound/file
same "bind mount" host run -v /run/bound:/m:ro busybox cat /m/file
same "bind mount is read-only" 1 run -v /run/bound:/m:ro busybox sh -c 'echo x 2>/dev/null >/m/file; echo $?'
check "volume rm" docker volume rm vol

# --- what a container may
same "default seccomp filter" 2 status Seccomp
same "unconfined" 0 status Seccomp --security-opt seccomp=unconfined
same "default capabilities" 00000000a80425fb status CapEff
same "no capabilities" 0000000000000000 status CapEff --cap-drop ALL
same "one capability" 0000000000001000 status CapEff --cap-drop ALL --cap-add NET_ADMIN
same "no new privileges" 1 status NoNewPrivs --security-opt no-new-privileges
code "mount is refused" 1 run busybox mount -t tmpfs t /tmp
code "unshare is refused" 1 run busybox unshare -m true
check "privileged" run --privileged busybox mount -t tmpfs t /tmp
same "privileged without seccomp" 0 status Seccomp --privileged
check "privileged may change cgroups" run --privileged busybox mkdir /sys/fs/cgroup/below
check "privileged has the devices" run --privileged busybox test -c /dev/kmsg
code "other devices are denied" 1 run busybox sh -c 'mknod /tmp/kmsg c 1 11 && true </tmp/kmsg'
check "usual devices are there" run busybox sh -c 'echo x >/dev/null && head -c 4 /dev/urandom | wc -c | grep -q 4'
check "a device that was given" run --cap-add SYSLOG --device /dev/kmsg busybox sh -c 'true </dev/kmsg'
code "a device that was given for writing" 1 run --cap-add SYSLOG --device /dev/kmsg:/dev/kmsg:w busybox sh -c 'true </dev/kmsg'

# --- a daemon that dies
docker run -d --name kept --network "$net" busybox sh -c 'echo before; while [ ! -e /end ]; do usleep 50000; done; echo after; exit 9' >/dev/null
docker run -d --name short --network "$net" busybox sh -c 'sleep 2; exit 5' >/dev/null
eventually "it has printed" before docker logs kept
kill -9 $daemon
wait $daemon 2>/dev/null
# The short one ends while nobody watches.
usleep 2500000
start_daemon
same "it runs on" running field kept '{{.State.Status}}'
same "an exit in between is known" "exited 5" field short '{{.State.Status}} {{.State.ExitCode}}'
check "exec after that" docker exec kept touch /end
same "its exit code" 9 docker wait kept
same "its log" "before
after" docker logs kept
docker rm kept short >/dev/null

# --- nothing stays
docker ps -aq | xargs -r docker rm -f >/dev/null 2>&1
left_mounts() { grep -c -e ' /var/lib/smoke/' -e ' /run/smoke/' /proc/mounts; }
left_cgroups() { find /sys/fs/cgroup -mindepth 2 -type d -path '*docker*' | wc -l; }
eventually "no mounts are left" 0 left_mounts
eventually "no cgroups are left" 0 left_cgroups
kill $daemon
wait $daemon
same "the daemon ends well" 0 echo $?
# The daemon has pairs ready for the next containers as long as it runs.
left_links() { ls /sys/class/net | grep -c veth; }
eventually "no links are left" 0 left_links
supervisors() { ps | grep -c '[s]upervisor'; }
eventually "the supervisor ends with it" 0 supervisors

# --- unit tests that want this kernel
for tests in /bin/tests-*; do
  [ -x "$tests" ] && check "${tests##*/}" "$tests" --test-threads 1 privileged_
done

[ $failed = 0 ] || tail -n 20 /run/smoke.log
echo "smoke: $passed passed, $failed failed"
[ $failed = 0 ]
