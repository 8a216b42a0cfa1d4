//! Whether a process of this machine is gone, as the kernel says: the proof that a process leaves in
//! its card, and the look at it.

use std::fs;
use std::io::ErrorKind;

use firn_coordinator::ProcessProof;

/// The proof of this process.
pub fn own_proof() -> ProcessProof {
    let pid = std::process::id();
    ProcessProof {
        boot: boot(),
        namespaces: namespaces(),
        pid,
        started: match seen(pid) {
            Seen::Runs { started } => started,
            Seen::Gone | Seen::Unknown => 0,
        },
    }
}

/// Whether it is certain that the process is gone: it ran on this machine since that was started,
/// where this process counts process ids and time too, and no process with its id and start is there now.
pub(super) fn is_gone(process: &ProcessProof) -> bool {
    let is_here = !process.boot.is_empty()
        && process.boot == boot()
        && !process.namespaces.is_empty()
        && process.namespaces == namespaces();
    is_here
        && process.started != 0
        && match seen(process.pid) {
            Seen::Runs { started } => started != process.started,
            Seen::Gone => true,
            Seen::Unknown => false,
        }
}

/// What the kernel says of a process id.
enum Seen {
    /// A process has it, that started then.
    Runs {
        /// In ticks since the start of the machine.
        started: u64,
    },
    /// None has it, or one that has ended and whose parent has not looked yet.
    Gone,
    /// The kernel does not say.
    Unknown,
}

fn seen(pid: u32) -> Seen {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => state_and_start(&stat),
        Err(error) if error.kind() == ErrorKind::NotFound && shows_all(&mounts()) => Seen::Gone,
        Err(_) => Seen::Unknown,
    }
}

/// Whether `/proc` is there and shows the processes of other users too: proc(5), `hidepid`.
fn shows_all(mounts: &str) -> bool {
    let proc = mounts
        .lines()
        .map(|line| line.split(' ').collect::<Vec<_>>())
        .rfind(|fields| fields.get(1) == Some(&"/proc"));
    let options = proc.as_ref().and_then(|fields| fields.get(3));
    options.is_some_and(|options| {
        let hides = |option: &str| {
            let hidden = option.strip_prefix("hidepid=");
            hidden.is_some_and(|how| !matches!(how, "0" | "off"))
        };
        !options.split(',').any(hides)
    })
}

fn mounts() -> String {
    fs::read_to_string("/proc/self/mounts").unwrap_or_default()
}

/// Fields 3 and 22 of `/proc/<pid>/stat`: proc_pid_stat(5). The name in field 2 may hold anything.
fn state_and_start(stat: &str) -> Seen {
    let Some((_, fields)) = stat.rsplit_once(')') else {
        return Seen::Unknown;
    };
    let mut fields = fields.split_whitespace();
    match fields.next() {
        Some("Z" | "X" | "x") => return Seen::Gone,
        Some(_) => {}
        None => return Seen::Unknown,
    }
    let started = fields.nth(18).and_then(|field| field.parse().ok());
    started.map_or(Seen::Unknown, |started| Seen::Runs { started })
}

fn boot() -> String {
    let id = fs::read_to_string("/proc/sys/kernel/random/boot_id");
    id.unwrap_or_default().trim().to_owned()
}

/// Those in which process ids and start times count: `/proc/<pid>/stat` tells the same process
/// another start in each time namespace (time_namespaces(7)). Linux before 5.6 has none of these.
fn namespaces() -> String {
    let link = |name: &str| fs::read_link(format!("/proc/self/ns/{name}"));
    let Ok(pid) = link("pid") else {
        return String::new();
    };
    match link("time") {
        Ok(time) => format!("{} {}", pid.display(), time.display()),
        Err(error) if error.kind() == ErrorKind::NotFound => pid.display().to_string(),
        Err(_) => String::new(),
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn a_process_is_gone_from_its_end_on_whoever_has_its_id_later() {
        let own = own_proof();
        assert!(!is_gone(&own), "this one runs: {own:?}");
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let Seen::Runs { started } = seen(child.id()) else {
            panic!("the child runs");
        };
        let proof = ProcessProof {
            pid: child.id(),
            started,
            ..own.clone()
        };
        assert!(!is_gone(&proof));
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(is_gone(&proof));

        let earlier = ProcessProof {
            started: own.started - 1,
            ..own
        };
        assert!(is_gone(&earlier), "its id is used again");
        let elsewhere = ProcessProof {
            boot: "another machine".to_owned(),
            ..earlier.clone()
        };
        assert!(!is_gone(&elsewhere));
        let contained = ProcessProof {
            namespaces: "pid:[1]".to_owned(),
            ..earlier.clone()
        };
        assert!(!is_gone(&contained));
        let (pid, time) = earlier.namespaces.split_once(' ').unwrap();
        assert!(time.starts_with("time:["), "{time}");
        let shifted = ProcessProof {
            namespaces: format!("{pid} time:[1]"),
            ..earlier.clone()
        };
        assert!(!is_gone(&shifted), "its start counts from elsewhere");
    }

    #[test]
    fn nothing_is_certain_where_processes_of_others_are_hidden() {
        let mounted =
            |options: &str| format!("/dev/x / ext4 rw 0 0\nproc /proc proc {options} 0 0\n");
        assert!(shows_all(&mounted("rw,nosuid")));
        assert!(shows_all(&mounted("rw,hidepid=0")));
        assert!(!shows_all(&mounted("rw,hidepid=2")));
        assert!(!shows_all(&mounted("rw,hidepid=invisible,gid=4")));
        assert!(!shows_all("/dev/x / ext4 rw 0 0\n"));
    }

    #[test]
    fn a_process_that_its_parent_has_not_looked_at_is_gone_and_one_that_is_stopped_is_not() {
        let stat =
            |state| format!("7 (a) b) c) {state} 1 7 7 0 -1 4 1 0 0 0 0 0 0 0 20 0 1 0 555 9");
        assert!(matches!(state_and_start(&stat('Z')), Seen::Gone));
        assert!(matches!(
            state_and_start(&stat('T')),
            Seen::Runs { started: 555 }
        ));
        assert!(matches!(state_and_start("7 (cut"), Seen::Unknown));
    }
}
