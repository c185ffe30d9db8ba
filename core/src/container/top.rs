//! `docker top`: the processes of a container as a table. The host's /proc is read here for the formats people use
//! (`-ef`, `aux`, `-o ...`), so that no `ps` program is needed; times of day are in UTC.

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;

use dockerd_types::Timestamp;

use super::error::TopError;

/// What `top` answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopResult {
    /// Column titles.
    pub titles: Vec<String>,
    /// One row per process.
    pub processes: Vec<Vec<String>>,
}

/// Clock ticks per second in /proc; fixed for user space on all our architectures.
const TICKS: u64 = 100;
const DEFAULT_ARGS: &str = "-ef";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Column {
    User,
    UserNumber,
    Group,
    Pid,
    Ppid,
    Pgid,
    Session,
    CpuShort,
    Cpu,
    Memory,
    Vsz,
    Rss,
    Tty,
    State,
    StartShort,
    Time,
    TimeShort,
    Elapsed,
    Nice,
    Threads,
    Comm,
    Command,
}

/// Names `-o` takes, what they show, and their titles.
const NAMES: [(&str, Column, &str); 30] = [
    ("user", Column::User, "USER"),
    ("euser", Column::User, "EUSER"),
    ("ruser", Column::User, "RUSER"),
    ("uid", Column::UserNumber, "UID"),
    ("euid", Column::UserNumber, "EUID"),
    ("group", Column::Group, "GROUP"),
    ("egroup", Column::Group, "EGROUP"),
    ("pid", Column::Pid, "PID"),
    ("ppid", Column::Ppid, "PPID"),
    ("pgid", Column::Pgid, "PGID"),
    ("sid", Column::Session, "SID"),
    ("sess", Column::Session, "SESS"),
    ("c", Column::CpuShort, "C"),
    ("pcpu", Column::Cpu, "%CPU"),
    ("%cpu", Column::Cpu, "%CPU"),
    ("pmem", Column::Memory, "%MEM"),
    ("%mem", Column::Memory, "%MEM"),
    ("vsz", Column::Vsz, "VSZ"),
    ("rss", Column::Rss, "RSS"),
    ("tty", Column::Tty, "TT"),
    ("stat", Column::State, "STAT"),
    ("state", Column::State, "S"),
    ("stime", Column::StartShort, "STIME"),
    ("time", Column::Time, "TIME"),
    ("etime", Column::Elapsed, "ELAPSED"),
    ("ni", Column::Nice, "NI"),
    ("nlwp", Column::Threads, "NLWP"),
    ("comm", Column::Comm, "COMMAND"),
    ("args", Column::Command, "COMMAND"),
    ("cmd", Column::Command, "CMD"),
];

/// The columns `args` asks for, as titles; what we do not know is for a real `ps`.
fn columns(args: &str) -> Result<Vec<(String, Column)>, TopError> {
    let named = |list: &[(&str, Column)]| list.iter().map(|(t, c)| ((*t).to_owned(), *c)).collect();
    let args = if args.trim().is_empty() { DEFAULT_ARGS } else { args.trim() };
    match args {
        "-ef" | "-eF" | "-Af" | "ef" => {
            return Ok(named(&[
                ("UID", Column::User),
                ("PID", Column::Pid),
                ("PPID", Column::Ppid),
                ("C", Column::CpuShort),
                ("STIME", Column::StartShort),
                ("TTY", Column::Tty),
                ("TIME", Column::Time),
                ("CMD", Column::Command),
            ]));
        }
        "-e" | "-A" => {
            return Ok(named(&[
                ("PID", Column::Pid),
                ("TTY", Column::Tty),
                ("TIME", Column::Time),
                ("CMD", Column::Comm),
            ]));
        }
        "aux" | "-aux" | "auxw" | "auxww" | "u" => {
            return Ok(named(&[
                ("USER", Column::User),
                ("PID", Column::Pid),
                ("%CPU", Column::Cpu),
                ("%MEM", Column::Memory),
                ("VSZ", Column::Vsz),
                ("RSS", Column::Rss),
                ("TTY", Column::Tty),
                ("STAT", Column::State),
                ("START", Column::StartShort),
                ("TIME", Column::TimeShort),
                ("COMMAND", Column::Command),
            ]));
        }
        _ => {}
    }
    custom(args)
}

/// `-o a,b`, `-eo a,b`, `o a b`, also several of them.
fn custom(args: &str) -> Result<Vec<(String, Column)>, TopError> {
    let mut words = args.split_whitespace();
    let mut out = Vec::new();
    while let Some(word) = words.next() {
        let list = match word {
            "-o" | "-eo" | "-Ao" | "-axo" | "axo" | "o" | "eo" | "-efo" => words.next().unwrap_or_default(),
            "-e" | "-A" | "-ax" | "ax" => continue,
            _ => match word.strip_prefix("-o") {
                Some(list) if !list.is_empty() => list,
                _ if word.starts_with("--") => return Err(TopError::Ps("unknown gnu long option".to_owned())),
                _ => return Err(TopError::Ps(format!("unsupported option {word:?}"))),
            },
        };
        for name in list.split(',') {
            let (name, title) = name.split_once('=').map_or((name, None), |(name, title)| (name, Some(title)));
            let lookup = if name == "command" {
                "args"
            } else if name == "tname" {
                "tty"
            } else {
                name
            };
            let known = NAMES.iter().find(|(n, ..)| *n == lookup);
            let (_, column, default) =
                known.ok_or_else(|| TopError::Ps(format!("unknown user-defined format specifier \"{name}\"")))?;
            out.push((title.unwrap_or(default).to_owned(), *column));
        }
    }
    Ok(out)
}

/// The table of these processes. Blocking (reads /proc).
pub fn table(pids: &[i32], args: &str, now: Timestamp) -> Result<TopResult, TopError> {
    let columns = columns(args)?;
    if !columns.iter().any(|(_, column)| *column == Column::Pid) {
        return Err(TopError::NoPid);
    }
    let host = Host::read(now);
    let processes = pids
        .iter()
        .filter_map(|pid| Process::read(*pid))
        .map(|process| columns.iter().map(|(_, column)| process.show(*column, &host)).collect())
        .collect();
    Ok(TopResult { titles: columns.into_iter().map(|(title, _)| title).collect(), processes })
}

/// What the columns need of the host.
#[derive(Debug, Default)]
struct Host {
    now: Timestamp0,
    boot: u64,
    memory_kb: u64,
    users: HashMap<u32, String>,
    groups: HashMap<u32, String>,
}

/// Seconds since the epoch.
type Timestamp0 = u64;

impl Host {
    fn read(now: Timestamp) -> Self {
        let text = |path| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, key: &str| {
            let line = text.lines().find(|line| line.starts_with(key))?;
            line.split_whitespace().nth(1)?.parse().ok()
        };
        Self {
            now: u64::try_from(now.unix_seconds()).unwrap_or(0),
            boot: field(&text("/proc/stat"), "btime").unwrap_or(0),
            memory_kb: field(&text("/proc/meminfo"), "MemTotal:").unwrap_or(0),
            users: names(&text("/etc/passwd")),
            groups: names(&text("/etc/group")),
        }
    }
}

/// `name:x:number:...`
fn names(text: &str) -> HashMap<u32, String> {
    let entry = |line: &str| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        Some((fields.nth(1)?.parse().ok()?, name))
    };
    text.lines().filter_map(entry).collect()
}

#[derive(Debug)]
struct Process {
    pid: i32,
    uid: u32,
    gid: u32,
    comm: String,
    command: String,
    /// Fields of /proc/PID/stat from the state on.
    stat: Vec<String>,
}

impl Process {
    fn read(pid: i32) -> Option<Self> {
        let dir = format!("/proc/{pid}");
        let stat = fs::read_to_string(format!("{dir}/stat")).ok()?;
        // The name stands in parentheses and may hold any character, parentheses too.
        let (open, close) = (stat.find('(')?, stat.rfind(')')?);
        let comm = stat.get(open + 1..close)?.to_owned();
        let fields = stat.get(close + 1..)?.split_whitespace().map(str::to_owned).collect();
        let meta = fs::metadata(&dir).ok()?;
        let raw = fs::read(format!("{dir}/cmdline")).unwrap_or_default();
        let command = raw.split(|b| *b == 0).map(String::from_utf8_lossy).collect::<Vec<_>>().join(" ");
        let command = command.trim_end().to_owned();
        let command = if command.is_empty() { format!("[{comm}]") } else { command };
        Some(Self { pid, uid: meta.uid(), gid: meta.gid(), comm, command, stat: fields })
    }

    /// Field `number` of proc(5)'s description of stat (the state is number 3).
    fn field(&self, number: usize) -> i64 {
        number.checked_sub(3).and_then(|at| self.stat.get(at)).and_then(|text| text.parse().ok()).unwrap_or(0)
    }

    fn unsigned(&self, number: usize) -> u64 {
        u64::try_from(self.field(number)).unwrap_or(0)
    }

    fn cpu_seconds(&self) -> u64 {
        (self.unsigned(14) + self.unsigned(15)) / TICKS
    }

    fn started(&self, host: &Host) -> u64 {
        host.boot + self.unsigned(22) / TICKS
    }

    fn age(&self, host: &Host) -> u64 {
        host.now.saturating_sub(self.started(host))
    }

    fn rss_kb(&self) -> u64 {
        self.unsigned(24) * 4
    }

    fn show(&self, column: Column, host: &Host) -> String {
        let name = |names: &HashMap<u32, String>, id: u32| names.get(&id).cloned().unwrap_or_else(|| id.to_string());
        // CPU time in tenths of a percent of the life so far.
        let cpu = (self.unsigned(14) + self.unsigned(15)) * 1000 / TICKS / self.age(host).max(1);
        match column {
            Column::User => name(&host.users, self.uid),
            Column::UserNumber => self.uid.to_string(),
            Column::Group => name(&host.groups, self.gid),
            Column::Pid => self.pid.to_string(),
            Column::Ppid => self.field(4).to_string(),
            Column::Pgid => self.field(5).to_string(),
            Column::Session => self.field(6).to_string(),
            Column::CpuShort => (cpu / 10).to_string(),
            Column::Cpu => tenths(cpu),
            Column::Memory => tenths(self.rss_kb() * 1000 / host.memory_kb.max(1)),
            Column::Vsz => (self.unsigned(23) / 1024).to_string(),
            Column::Rss => self.rss_kb().to_string(),
            Column::Tty => tty(self.field(7)),
            Column::State => self.stat.first().cloned().unwrap_or_default(),
            Column::StartShort => start(self.started(host), host.now),
            Column::Time => {
                let s = self.cpu_seconds();
                format!("{:02}:{:02}:{:02}", s / 3600, s / 60 % 60, s % 60)
            }
            Column::TimeShort => format!("{}:{:02}", self.cpu_seconds() / 60, self.cpu_seconds() % 60),
            Column::Elapsed => elapsed(self.age(host)),
            Column::Nice => self.field(19).to_string(),
            Column::Threads => self.field(20).to_string(),
            Column::Comm => self.comm.clone(),
            Column::Command => self.command.clone(),
        }
    }
}

fn tenths(value: u64) -> String {
    format!("{}.{}", value / 10, value % 10)
}

/// Device number of the controlling terminal, in the kernel's packing.
fn tty(number: i64) -> String {
    let number = u64::try_from(number).unwrap_or(0);
    let (major, minor) = ((number >> 8) & 0xfff, (number & 0xff) | ((number >> 12) & 0xfff00));
    match major {
        0 => "?".to_owned(),
        4 => format!("tty{minor}"),
        136..=143 => format!("pts/{}", (major - 136) * 256 + minor),
        _ => format!("{major}:{minor}"),
    }
}

/// `HH:MM` within a day, else `MonDD`.
fn start(at: u64, now: u64) -> String {
    let date = i64::try_from(at).ok().and_then(|s| time::OffsetDateTime::from_unix_timestamp(s).ok());
    let Some(date) = date else { return "?".to_owned() };
    if now.saturating_sub(at) < 24 * 3600 {
        format!("{:02}:{:02}", date.hour(), date.minute())
    } else {
        format!("{:.3}{:02}", date.month().to_string(), date.day())
    }
}

fn elapsed(s: u64) -> String {
    let (days, hours, rest) = (s / 86400, s / 3600 % 24, format!("{:02}:{:02}", s / 60 % 60, s % 60));
    match (days, hours) {
        (0, 0) => rest,
        (0, _) => format!("{hours:02}:{rest}"),
        _ => format!("{days}-{hours:02}:{rest}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_own_process_in_all_formats() {
        let pid = i32::try_from(std::process::id()).expect("pid");
        for args in ["", "-ef", "aux", "-o pid,comm", "-eo user,pid,args"] {
            let result = table(&[pid], args, Timestamp::now()).expect(args);
            assert_eq!(result.processes.len(), 1, "{args}");
            let at = result.titles.iter().position(|t| t == "PID").expect("PID");
            assert_eq!(result.processes[0][at], pid.to_string());
        }
    }

    #[test]
    fn refusals() {
        assert!(matches!(table(&[], "-o comm", Timestamp::now()), Err(TopError::NoPid)));
        assert!(matches!(table(&[], "-o pid,nope", Timestamp::now()), Err(TopError::Ps(_))));
    }

    #[test]
    fn texts() {
        assert_eq!(elapsed(90061), "1-01:01:01");
        assert_eq!(tty(34817), "pts/1");
        assert_eq!(start(0, 100), "00:00");
        assert_eq!(start(0, 1_000_000), "Jan01");
    }
}
