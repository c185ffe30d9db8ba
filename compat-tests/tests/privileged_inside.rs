//! What a process in a container sees and may do: namespaces, mounts, devices, capabilities, system calls, control groups,
//! files of the network. Views that depend on the machine's control groups are recorded for each kind.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context, Result};
use compat_tests::golden::Golden;
use compat_tests::{Case, Suite, tests};

fn main() -> ExitCode {
    Suite {
        name: "inside",
        flags: &[],
        tests: tests![
            mount_table,
            mount_table_privileged,
            mount_table_read_only,
            mount_table_host_namespaces,
            devices,
            devices_privileged,
            device,
            device_access,
            device_cgroup_rule,
            masked_paths,
            read_only_paths,
            status,
            status_options,
            system_calls,
            system_calls_unconfined,
            system_calls_cap_add,
            no_new_privileges,
            custom_seccomp,
            sysctl,
            namespaces,
            ipc,
            pid,
            uts,
            network_none,
            network_host,
            network_container,
            hosts_file,
            resolv_conf,
            resolv_conf_options,
            memory_limit,
            cpu_limits,
            pids_limit,
            shm_size,
            oom_score,
            file_system_root,
        ],
    }
    .main()
}

/// Which control groups this machine has.
fn cgroups() -> &'static str {
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() { "v2" } else { "v1" }
}

/// The mount table without what differs from mount to mount: ids, device numbers, paths on the host, layers.
fn table(t: &Case<'_>, options: &[&str]) -> Result<String> {
    let seen = t.shell(options, "cat /proc/self/mountinfo")?;
    let mut lines = BTreeSet::new();
    for line in seen.lines() {
        let (mount, kind) = line.split_once(" - ").context("no separator")?;
        let mount: Vec<&str> = mount.split(' ').collect();
        let kind: Vec<&str> = kind.split(' ').collect();
        let (point, flags, propagation) = (mount[4], mount[5], mount[6..].join(" "));
        let propagation = if propagation.contains("master") { "slave" } else { &propagation };
        let propagation = if propagation.contains("shared") { "shared" } else { propagation };
        // Files of the daemon's disk show that disk.
        let (file_system, options) = match (point, kind[0]) {
            ("/etc/hosts" | "/etc/hostname" | "/etc/resolv.conf", _) => ("disk", ""),
            (_, "overlay") => ("overlay", ""),
            (_, kind_name) => (kind_name, kind[2]),
        };
        // The size of the host's own devtmpfs and the like is the machine's.
        // Whether the file system itself is writable matters only where the mount is; and that stands in the flags.
        let shown = |option: &&str| !option.starts_with("nr_inodes=") && !["rw", "ro"].contains(option);
        let options: Vec<&str> = options.split(',').filter(shown).collect();
        lines.insert(format!("{point} {flags} {propagation} {file_system} {} {}", kind[1], options.join(",")));
    }
    Ok(lines.into_iter().map(|line| line.replace("/dev/vda ", "disk ")).collect::<Vec<_>>().join("\n"))
}

fn check_table(t: &Case<'_>, name: &str, options: &[&str]) -> Result<()> {
    let root = t.http("GET", "/info")?.json()?["DockerRootDir"].as_str().unwrap_or_default().to_owned();
    let recorded = concat!(env!("CARGO_MANIFEST_DIR"), "/golden");
    if t.is_ours() && !Path::new(recorded).join(format!("mounts-{name}-{}.txt", cgroups())).exists() {
        eprintln!("the mount table {name} was not recorded from stock on cgroups {}: not compared", cgroups());
        return Ok(());
    }
    let text = table(t, options)?;
    let lines = text.lines().map(|line| {
        // The source of these is the disk that holds the daemon's data.
        if line.starts_with("/etc/") { line.split(" disk ").next().unwrap_or(line) } else { line }
    });
    let text = lines.collect::<Vec<_>>().join("\n");
    Golden::new(t).replacing(&root, "<root>").check_text(t, &format!("mounts-{name}-{}", cgroups()), &text)
}

fn mount_table(t: &Case<'_>) -> Result<()> {
    check_table(t, "default", &[])
}

fn mount_table_privileged(t: &Case<'_>) -> Result<()> {
    check_table(t, "privileged", &["--privileged"])
}

fn mount_table_read_only(t: &Case<'_>) -> Result<()> {
    check_table(t, "read-only", &["--read-only", "--tmpfs", "/scratch"])
}

fn mount_table_host_namespaces(t: &Case<'_>) -> Result<()> {
    check_table(t, "host-ipc", &["--ipc", "none", "--uts", "host", "--cgroupns", "host"])
}

const LIST_DEVICES: &str = "cd /dev; ls -ln | awk 'NR>1 {print $1, $3, $4, /^[bc]/ ? $5 $6 : \"\", $NF}' | sort";

fn devices(t: &Case<'_>) -> Result<()> {
    let list = t.shell(
        &[],
        &format!("{LIST_DEVICES}; for l in fd stdin stdout stderr ptmx; do echo $l $(readlink $l); done"),
    )?;
    Golden::new(t).check_text(t, "devices", &list)?;
    let list = t.run(&["-t"], &["sh", "-c", LIST_DEVICES]).ok()?;
    Golden::new(t).check_text(t, "devices-terminal", &list.replace('\r', ""))
}

fn devices_privileged(t: &Case<'_>) -> Result<()> {
    // All of the daemon's own, below /dev. Which those are is the machine's business.
    let seen = t.shell(&["--privileged"], "cd /dev; find . -type b -o -type c | sort")?;
    let seen: BTreeSet<&str> = seen.lines().collect();
    for wanted in ["./null", "./zero", "./kmsg", "./mem"] {
        if t.host().path(&Path::new("/dev").join(wanted)).exists() {
            assert!(seen.contains(wanted), "{wanted} is missing in {seen:?}");
        }
    }
    assert_eq!(t.shell(&["--privileged"], "head -c 1 /dev/zero | wc -c")?, "1");
    Ok(())
}

fn device(t: &Case<'_>) -> Result<()> {
    let list = "cd /dev; ls -ln other | awk '{print $1, $3, $4, $5 $6, $NF}'";
    let options = ["--device", "/dev/zero:/dev/other"];
    assert_eq!(t.shell(&options, list)?, "crw-rw-rw- 0 0 1,5 other");
    assert_eq!(t.shell(&options, "head -c 3 /dev/other | wc -c; echo x > /dev/other && echo written")?, "3\nwritten");
    assert_eq!(t.shell(&["--device", "/dev/kmsg"], "test -c /dev/kmsg && echo there")?, "there");
    Ok(())
}

fn device_access(t: &Case<'_>) -> Result<()> {
    // /dev/kmsg (1:11) is not among the devices everybody may use.
    let script =
        "mknod /tmp/kmsg c 1 11 && (: < /tmp/kmsg) 2>&1; mknod /tmp/null c 1 3 && echo x > /tmp/null && echo null";
    let out = t.shell(&[], script)?;
    assert_eq!(out, "sh: can't open /tmp/kmsg: Operation not permitted\nnull");
    let options = ["--cap-add", "SYSLOG", "--device", "/dev/kmsg:/dev/kmsg:r"];
    let out = t.shell(&options, "(: < /dev/kmsg) && echo read; (: > /dev/kmsg) 2>&1 || true")?;
    assert_eq!(out, "read\nsh: can't create /dev/kmsg: Operation not permitted");
    Ok(())
}

fn device_cgroup_rule(t: &Case<'_>) -> Result<()> {
    let script = "mknod /tmp/kmsg c 1 11 && (: < /tmp/kmsg) && echo read";
    assert_eq!(t.shell(&["--cap-add", "SYSLOG", "--device-cgroup-rule", "c 1:11 rwm"], script)?, "read");
    Ok(())
}

/// What stock masks, as far as this kernel has it.
const MASKED: &str = "for p in /proc/acpi /proc/asound /proc/interrupts /proc/kcore /proc/keys /proc/latency_stats \
                      /proc/sched_debug /proc/scsi /proc/timer_list /proc/timer_stats /sys/devices/virtual/powercap \
                      /sys/firmware; do test -e $p || continue; if test -d $p; then echo $p $(ls $p | wc -l); \
                      else echo $p $(head -c 10 $p 2>/dev/null | wc -c); fi; done";

fn masked_paths(t: &Case<'_>) -> Result<()> {
    let seen = t.shell(&[], MASKED)?;
    assert!(seen.lines().count() > 2, "{seen}");
    for line in seen.lines() {
        assert!(line.ends_with(" 0"), "{line}");
    }
    let open = t.shell(&["--security-opt", "systempaths=unconfined"], "head -c 10 /proc/interrupts | wc -c")?;
    assert_eq!(open, "10");
    assert_eq!(t.shell(&["--privileged"], "head -c 10 /proc/interrupts | wc -c")?, "10");
    Ok(())
}

fn read_only_paths(t: &Case<'_>) -> Result<()> {
    for path in ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger", "/sys"] {
        if !t.host().path(Path::new(path)).exists() {
            continue;
        }
        let script = format!("awk '$5 == \"{path}\" {{print $6}}' /proc/self/mountinfo | grep -c '^ro'");
        assert_eq!(t.run(&[], &["sh", "-c", &script]).out, "1", "{path}");
    }
    let refused = t.run(&[], &["sh", "-c", "echo 1 > /proc/sys/kernel/panic"]);
    assert!(refused.err.contains("Read-only file system"), "{}", refused.err);
    assert_eq!(
        t.shell(&["--privileged"], "cat /proc/sys/kernel/panic > /proc/sys/kernel/panic && echo written")?,
        "written"
    );
    Ok(())
}

const STATUS: &str =
    "grep -E '^(Uid|Gid|Groups|Cap...|NoNewPrivs|Seccomp|Umask):' /proc/self/status | sed 's/[ \t]*$//'";

fn status(t: &Case<'_>) -> Result<()> {
    Golden::new(t).check_text(t, "status-default", &t.shell(&[], STATUS)?)?;
    Golden::new(t).check_text(t, "status-user", &t.shell(&["-u", "user"], STATUS)?)
}

fn status_options(t: &Case<'_>) -> Result<()> {
    let cases: [(&str, &[&str]); 6] = [
        ("cap-add", &["--cap-add", "SYS_ADMIN", "--cap-add", "net_admin"]),
        ("cap-drop", &["--cap-drop", "ALL"]),
        ("cap-drop-add", &["--cap-drop", "ALL", "--cap-add", "CHOWN"]),
        ("user-cap-add", &["-u", "user", "--cap-add", "SYS_ADMIN"]),
        ("user-privileged", &["-u", "user", "--group-add", "0", "--security-opt", "no-new-privileges"]),
        ("unconfined", &["--security-opt", "seccomp=unconfined"]),
    ];
    for (name, options) in cases {
        Golden::new(t).check_text(t, &format!("status-{name}"), &t.shell(options, STATUS)?)?;
    }
    let all = std::fs::read_to_string(format!("/proc/{}/status", t.host().pid))?;
    let all = all.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap_or_default().trim();
    let seen = t.shell(&["--privileged"], "sed -n 's/^CapEff:\\t//p; s/^Seccomp:\\t//p' /proc/self/status")?;
    assert_eq!(seen, format!("{all}\n0"));
    Ok(())
}

/// System calls by the programs that make them; what they say is the error.
const CALLS: &str = "try() { echo \"$* = $(\"$@\" 2>&1 >/dev/null | head -1)\"; }; mkdir -p /tmp/m; \
                     try mount -t tmpfs none /tmp/m; try umount /tmp/m; try unshare -m true; try unshare -U true; \
                     try unshare -n true; try chroot / true; try hostname other; try swapoff /nope; try dmesg -c; \
                     try insmod /nope; try rmmod nope; try mknod /tmp/node b 7 0; try chown 1 /tmp/m; \
                     try nice -n -5 true; try renice -n -1 1; try pivot_root /tmp /tmp; try ping -c 1 -w 1 127.0.0.1; \
                     try ip link set lo up; try ip link add d0 type dummy; try setpriv --nnp true; try chrt -f 5 true; \
                     try hwclock -r; try losetup -f; try nsenter -t 1 -m true; try date -s @1; try acpid -v; \
                     try fsfreeze --freeze /nope; try blockdev --getsz /nope; try mount --bind /tmp /tmp/m";

fn calls(t: &Case<'_>, name: &str, options: &[&str]) -> Result<()> {
    let seen = t.shell(options, &format!("{CALLS}; true"))?;
    let seen = seen.lines().filter(|line| !line.contains("applet not found"));
    Golden::new(t).check_text(t, &format!("system-calls-{name}"), &seen.collect::<Vec<_>>().join("\n"))
}

fn system_calls(t: &Case<'_>) -> Result<()> {
    calls(t, "default", &[])?;
    calls(t, "user", &["-u", "user"])
}

fn system_calls_unconfined(t: &Case<'_>) -> Result<()> {
    calls(t, "unconfined", &["--security-opt", "seccomp=unconfined"])
}

fn system_calls_cap_add(t: &Case<'_>) -> Result<()> {
    calls(t, "sys-admin", &["--cap-add", "SYS_ADMIN"])?;
    calls(t, "no-caps", &["--cap-drop", "ALL"])
}

fn no_new_privileges(t: &Case<'_>) -> Result<()> {
    let flag = "sed -n 's/^NoNewPrivs:\\t//p' /proc/self/status";
    assert_eq!(t.shell(&["--security-opt", "no-new-privileges"], flag)?, "1");
    assert_eq!(t.shell(&["--security-opt", "no-new-privileges:false"], flag)?, "0");
    Ok(())
}

fn custom_seccomp(t: &Case<'_>) -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("profile.json");
    let profile = r#"{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [
        {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"},
        {"names": ["chmod", "fchmodat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 22}]}"#;
    std::fs::write(&file, profile)?;
    let option = format!("seccomp={}", file.display());
    let out =
        t.shell(&["--security-opt", &option], "mkdir /tmp/d 2>&1; chmod 700 /tmp 2>&1; touch /tmp/f && echo touched")?;
    let wanted = "mkdir: can't create directory '/tmp/d': Operation not permitted\n\
                  chmod: /tmp: Invalid argument\ntouched";
    assert_eq!(out, wanted);
    let wrong = t.run(&["--security-opt", "seccomp=/nope"], &["true"]);
    assert_eq!(wrong.code, 125);
    Ok(())
}

fn sysctl(t: &Case<'_>) -> Result<()> {
    let seen = t.shell(
        &["--sysctl", "net.ipv4.ip_forward=1", "--sysctl", "kernel.msgmax=9000"],
        "cat /proc/sys/net/ipv4/ip_forward /proc/sys/kernel/msgmax",
    )?;
    assert_eq!(seen, "1\n9000");
    let own = t.shell(&[], "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/net/ipv4/ping_group_range")?;
    assert_eq!(own, "0\n0\t2147483647");
    let refused = t.run(&["--network", "host", "--sysctl", "net.ipv4.ip_forward=1"], &["true"]);
    assert_ne!(refused.code, 0);
    Ok(())
}

/// Names of the namespaces of process 1 of a container.
fn links(t: &Case<'_>, options: &[&str]) -> Result<Vec<String>> {
    let script = "for n in mnt pid net ipc uts cgroup user time; do readlink /proc/1/ns/$n || echo none; done";
    Ok(t.shell(options, script)?.lines().map(str::to_owned).collect())
}

fn namespaces(t: &Case<'_>) -> Result<()> {
    let proc = format!("/proc/{}/ns", t.host().pid);
    let host: Vec<String> = ["mnt", "pid", "net", "ipc", "uts", "cgroup", "user", "time"]
        .iter()
        .map(|kind| std::fs::read_link(format!("{proc}/{kind}")).map(|link| link.to_string_lossy().into_owned()))
        .collect::<Result<_, _>>()?;
    let inside = links(t, &[])?;
    let own: Vec<bool> = host.iter().zip(&inside).map(|(host, inside)| host != inside).collect();
    let cgroup = cgroups() == "v2";
    assert_eq!(own[..7], [true, true, true, true, true, cgroup, false], "{host:?} {inside:?}");
    let cgroupns = t.create("ns", &[], &["true"])?;
    let mode = t.inspect(&cgroupns, "{{.HostConfig.CgroupnsMode}}");
    assert_eq!(mode, if cgroup { "private" } else { "host" });
    Ok(())
}

fn ipc(t: &Case<'_>) -> Result<()> {
    let maker =
        t.start("maker", &["--ipc", "shareable"], &["sh", "-c", "echo shared > /dev/shm/file; exec sleep 1000"])?;
    t.wait_until(&["exec", &maker, "cat", "/dev/shm/file"], |ran| ran.out == "shared")?;
    assert_eq!(t.shell(&["--ipc", &format!("container:{maker}")], "cat /dev/shm/file")?, "shared");
    let private = t.sleeper("private", &["--ipc", "private"])?;
    let refused = t.run(&["--ipc", &format!("container:{private}")], &["true"]);
    assert!(
        refused.err.contains("non-shareable IPC (hint: use IpcMode:shareable for the donor container)"),
        "{}",
        refused.err
    );
    let host = std::fs::read_link(format!("/proc/{}/ns/ipc", t.host().pid))?;
    assert_eq!(t.shell(&["--ipc", "host"], "readlink /proc/self/ns/ipc")?, host.to_string_lossy());
    Ok(())
}

fn pid(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.shell(&[], "echo $$")?, "1");
    let other = t.start("other", &[], &["sleep", "4747"])?;
    let join = format!("container:{other}");
    assert_eq!(t.shell(&["--pid", &join], "tr '\\0' ' ' < /proc/1/cmdline")?.trim(), "sleep 4747");
    let host = std::fs::read_link(format!("/proc/{}/ns/pid", t.host().pid))?;
    assert_eq!(t.shell(&["--pid", "host"], "readlink /proc/self/ns/pid")?, host.to_string_lossy());
    // Nothing of a container that shares the host's processes outlives it.
    let name = t.start("host", &["--pid", "host"], &["sh", "-c", "sleep 4748 & exec sleep 4749"])?;
    t.wait_until(&["top", &name], |ran| ran.out.contains("sleep 4748"))?;
    t.docker(&["rm", "-f", &name]).ok()?;
    Ok(())
}

fn uts(t: &Case<'_>) -> Result<()> {
    let host = std::fs::read_link(format!("/proc/{}/ns/uts", t.host().pid))?;
    assert_eq!(t.shell(&["--uts", "host"], "readlink /proc/self/ns/uts")?, host.to_string_lossy());
    let refused = t.run(&["--uts", "host", "--hostname", "x"], &["true"]);
    assert!(
        refused.code == 125 && refused.err.contains("conflicting options: hostname and the UTS mode"),
        "{}",
        refused.err
    );
    Ok(())
}

fn network_none(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.shell(&["--network", "none"], "ls /sys/class/net; cat /sys/class/net/lo/operstate")?, "lo\nunknown");
    assert_eq!(t.shell(&[], "ip -4 addr show lo | grep -c 127.0.0.1")?, "1");
    Ok(())
}

fn network_host(t: &Case<'_>) -> Result<()> {
    let host = std::fs::read_link(format!("/proc/{}/ns/net", t.host().pid))?;
    assert_eq!(t.shell(&["--network", "host"], "readlink /proc/self/ns/net")?, host.to_string_lossy());
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")?;
    assert_eq!(t.shell(&["--network", "host"], "hostname")?, name.trim());
    Ok(())
}

fn network_container(t: &Case<'_>) -> Result<()> {
    let other = t.sleeper("other", &["--hostname", "box"])?;
    let join = ["--network", &format!("container:{other}")];
    let namespace = t.docker(&["exec", &other, "readlink", "/proc/self/ns/net"]).ok()?;
    assert_eq!(t.shell(&join, "readlink /proc/self/ns/net; hostname")?, format!("{namespace}\nbox"));
    assert_eq!(t.shell(&join, "cat /etc/hosts")?, t.docker(&["exec", &other, "cat", "/etc/hosts"]).ok()?);
    let refused = t.run(&[&join[..], &["--hostname", "x"]].concat(), &["true"]);
    assert!(refused.err.contains("conflicting options: hostname and the network mode"), "{}", refused.err);
    t.docker(&["stop", "-t", "0", &other]).ok()?;
    let stopped = t.run(&join, &["true"]);
    assert!(stopped.err.contains("cannot join network namespace of a non running container"), "{}", stopped.err);
    Ok(())
}

fn hosts_file(t: &Case<'_>) -> Result<()> {
    Golden::new(t).check_text(t, "hosts-none", &t.shell(&["--hostname", "box"], "cat /etc/hosts")?)?;
    let more = ["--add-host", "other:192.0.2.1", "--add-host", "six=2001:db8::1"];
    Golden::new(t).check_text(t, "hosts-more", &t.shell(&more, "cat /etc/hosts")?)?;
    assert_eq!(t.shell(&["--hostname", "box"], "cat /etc/hostname")?, "box");
    assert_eq!(t.shell(&[], "stat -c %a /etc/hosts /etc/hostname /etc/resolv.conf")?, "644\n644\n644");
    // It is the container's to change, and stays changed.
    let name = t.create("c", &[], &["sh", "-c", "echo '192.0.2.9 added' >> /etc/hosts; grep -c added /etc/hosts"])?;
    assert_eq!(t.docker(&["start", "-a", &name]).ok()?, "1");
    Ok(())
}

fn resolv_conf(t: &Case<'_>) -> Result<()> {
    let seen = t.shell(&["--network", "host"], "grep -v '^#' /etc/resolv.conf")?;
    let path = t.host().path(Path::new("/etc/resolv.conf"));
    let host = std::fs::read_to_string(path)?;
    let host: Vec<&str> = host.lines().filter(|line| !line.starts_with('#') && !line.trim().is_empty()).collect();
    let seen: Vec<&str> = seen.lines().filter(|line| !line.trim().is_empty()).collect();
    assert_eq!(seen, host);
    Ok(())
}

fn resolv_conf_options(t: &Case<'_>) -> Result<()> {
    let options =
        ["--dns", "192.0.2.1", "--dns", "2001:db8::1", "--dns-search", "example.org", "--dns-option", "ndots:3"];
    Golden::new(t).check_text(t, "resolv-conf-options", &t.shell(&options, "cat /etc/resolv.conf")?)
}

fn memory_limit(t: &Case<'_>) -> Result<()> {
    let options = ["-m", "64m", "--memory-reservation", "32m", "--memory-swap", "128m"];
    if cgroups() == "v1" {
        let script = "cd /sys/fs/cgroup/memory; cat memory.limit_in_bytes memory.soft_limit_in_bytes";
        assert_eq!(t.shell(&options, script)?, "67108864\n33554432");
        let swap = "cat /sys/fs/cgroup/memory/memory.memsw.limit_in_bytes 2>/dev/null || echo none";
        assert!(["134217728", "none"].contains(&t.shell(&options, swap)?.as_str()));
    } else {
        assert_eq!(t.shell(&options, "cd /sys/fs/cgroup; cat memory.max memory.low")?, "67108864\n33554432");
    }
    let killed = t.container("oom");
    let fill = [
        "run",
        "-m",
        "8m",
        "--network",
        "none",
        "--name",
        &killed,
        t.image(),
        "sh",
        "-c",
        "head -c 100000000 /dev/zero | tail > /dev/null; exit $?",
    ];
    assert_eq!(t.docker(&fill).code, 137);
    assert_eq!(t.inspect(&killed, "{{.State.OOMKilled}}"), "true");
    Ok(())
}

fn cpu_limits(t: &Case<'_>) -> Result<()> {
    let options = ["--cpus", "0.5", "--cpuset-cpus", "0", "--cpu-shares", "512"];
    if cgroups() == "v1" {
        let script =
            "cd /sys/fs/cgroup; cat cpu/cpu.cfs_quota_us cpu/cpu.cfs_period_us cpu/cpu.shares cpuset/cpuset.cpus";
        assert_eq!(t.shell(&options, script)?, "50000\n100000\n512\n0");
    } else {
        let script = "cd /sys/fs/cgroup; cat cpu.max cpuset.cpus";
        assert_eq!(t.shell(&options, script)?, "50000 100000\n0");
    }
    assert_eq!(t.shell(&options, "nproc")?, "1");
    Ok(())
}

fn pids_limit(t: &Case<'_>) -> Result<()> {
    let file = if cgroups() == "v1" { "/sys/fs/cgroup/pids/pids.max" } else { "/sys/fs/cgroup/pids.max" };
    assert_eq!(t.shell(&["--pids-limit", "17"], &format!("cat {file}"))?, "17");
    assert_eq!(t.shell(&["--pids-limit", "-1"], &format!("cat {file}"))?, "max");
    assert_eq!(t.shell(&[], &format!("cat {file}"))?, "max");
    let refused = t.run(&["--pids-limit", "5"], &["sh", "-c", "for i in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait"]);
    assert!(refused.err.contains("can't fork"), "{}", refused.err);
    Ok(())
}

fn shm_size(t: &Case<'_>) -> Result<()> {
    let size = "df -k /dev/shm | tail -1 | awk '{print $2}'; stat -c %a /dev/shm";
    assert_eq!(t.shell(&[], size)?, "65536\n1777");
    assert_eq!(t.shell(&["--shm-size", "1m"], size)?, "1024\n1777");
    Ok(())
}

fn oom_score(t: &Case<'_>) -> Result<()> {
    assert_eq!(t.shell(&["--oom-score-adj", "123"], "cat /proc/self/oom_score_adj")?, "123");
    assert_eq!(t.shell(&[], "cat /proc/self/oom_score_adj")?, "0");
    Ok(())
}

fn file_system_root(t: &Case<'_>) -> Result<()> {
    let list =
        "ls -lan / | awk 'NR>1 {print $1, $3, $4, $9, $10, $11}'; ls -lan /etc | awk 'NR>1 {print $1, $9, $10, $11}'";
    let seen = t.shell(&[], list)?;
    let seen: BTreeSet<&str> = seen.lines().map(str::trim).collect();
    Golden::new(t).check_text(t, "root-directory", &seen.into_iter().collect::<Vec<_>>().join("\n"))
}
