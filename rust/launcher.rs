//! proxyvpn-helper: the only file that carries a capability, and all that it does is start the helper with it.
//!
//! File capabilities do not work on scripts, and on an interpreter they would privilege every script. So this program has
//! `cap_net_admin+p`, and passes it on as an ambient capability to the system's Python with the helper's fixed arguments.
//! `+p` and not `+ep`: where the kernel does not grant it, this program still starts and can say why.
//!
//! Whoever may execute it chooses its arguments, environment, descriptors, limits, signals, directory and umask. None of
//! them reaches the helper: arguments and environment are constants, descriptors above 2 are closed, the rest is set. It
//! reads no input but the owners and modes of what it is about to run, which must be root's alone, with every directory on
//! the way there. It must not allocate a way around any of this: no option, no variable, no configuration.
//!
//! capabilities(7), execve(2), close_range(2), getrlimit(2), statvfs(3).

use std::ffi::CStr;
use std::fs::{self, Metadata};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Component, Path, PathBuf};
use std::process::ExitCode;
use std::ptr;

const TREE: &str = "/usr/local/libexec/proxyvpn";
const PYTHON: &str = "/usr/bin/python3";
/// Isolated (no PYTHON* variable, no user's directory), without site (no .pth file), without writing bytecode.
const ARGUMENTS: [&CStr; 5] = [c"/usr/bin/python3", c"-I", c"-S", c"-B", c"/usr/local/libexec/proxyvpn/start.py"];
const ENVIRONMENT: [&CStr; 2] = [c"PATH=/usr/sbin:/usr/bin:/sbin:/bin", c"LC_ALL=C.UTF-8"];

const NET_ADMIN: u32 = 12;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;
const MOST_LINKS: u8 = 8;
/// What `up` understands as "a privilege is missing".
const NO_PRIVILEGE: u8 = 4;

/// Limits below which the helper could not finish what it began; the soft limits are raised to the hard ones.
const LEAST: [(Limit, u64, &str); 4] = [
    (libc::RLIMIT_NOFILE, 64, "open files (ulimit -n)"),
    (libc::RLIMIT_AS, 256 << 20, "address space (ulimit -v)"),
    (libc::RLIMIT_DATA, 128 << 20, "data (ulimit -d)"),
    (libc::RLIMIT_STACK, 1 << 20, "stack (ulimit -s)"),
];
const STACK: u64 = 8 << 20;

#[cfg(target_env = "gnu")]
type Limit = libc::__rlimit_resource_t;
#[cfg(not(target_env = "gnu"))]
type Limit = libc::c_int;

fn main() -> ExitCode {
    let refusal = start();
    let _ = writeln!(io::stderr(), "proxyvpn-helper: {refusal}");
    ExitCode::from(NO_PRIVILEGE)
}

/// Take all steps. Returns only when one failed, with the line to say.
fn start() -> String {
    let steps = [close_descriptors, reset_signals, set_limits, settle, check_files, pass_capability_on];
    match steps.into_iter().try_for_each(|step| step()) {
        Ok(()) => execute(),
        Err(refusal) => refusal,
    }
}

/// Step 1. Descriptors 0, 1 and 2 are open, and no other is.
fn close_descriptors() -> Result<(), String> {
    loop {
        // SAFETY: the string is NUL-terminated.
        match unsafe { libc::open(c"/dev/null".as_ptr(), libc::O_RDWR) } {
            -1 => return Err(failed("/dev/null cannot be opened")),
            0..=2 => (),
            _ => break,
        }
    }
    // SAFETY: plain system call; nothing here holds a descriptor above 2.
    if unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, 0) } == 0 {
        return Ok(());
    }
    let open = fs::read_dir("/proc/self/fd").map_err(|_| failed("/proc/self/fd cannot be read"))?;
    let numbers: Vec<i32> = open.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    for number in numbers.into_iter().filter(|&number| number > 2) {
        // SAFETY: plain system call; the descriptor of the listing itself is closed already, which is no harm.
        unsafe { libc::close(number) };
    }
    Ok(())
}

/// Step 2. No signal is blocked, no timer runs; those that reach a whole terminal are ignored, as the helper wants them.
fn reset_signals() -> Result<(), String> {
    let ignored = [libc::SIGINT, libc::SIGHUP, libc::SIGTERM, libc::SIGPIPE];
    for signal in 1..=64 {
        let action = if ignored.contains(&signal) { libc::SIG_IGN } else { libc::SIG_DFL };
        // SAFETY: no handler is installed. KILL, STOP and the C library's own signals refuse, which is well.
        unsafe { libc::signal(signal, action) };
    }
    // SAFETY: all zero is a valid itimerval and sigset_t, and each is valid for its call.
    unsafe {
        let never: libc::itimerval = std::mem::zeroed();
        for timer in [libc::ITIMER_REAL, libc::ITIMER_VIRTUAL, libc::ITIMER_PROF] {
            libc::setitimer(timer, &raw const never, ptr::null_mut());
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, ptr::null_mut());
    }
    Ok(())
}

/// Step 3. Every soft limit is the hard one, but for the stack, whose size decides how memory is laid out; no core file.
fn set_limits() -> Result<(), String> {
    for (resource, least, name) in LEAST {
        let hard = limit(resource)?.rlim_max;
        if hard < least {
            return Err(format!("the limit of {name} is {hard}; the helper needs {least}"));
        }
    }
    for resource in [libc::RLIMIT_NOFILE, libc::RLIMIT_AS, libc::RLIMIT_DATA, libc::RLIMIT_FSIZE, libc::RLIMIT_CPU] {
        let hard = limit(resource)?.rlim_max;
        set_limit(resource, hard, hard)?;
    }
    let hard = limit(libc::RLIMIT_STACK)?.rlim_max;
    set_limit(libc::RLIMIT_STACK, hard.min(STACK), hard)?;
    set_limit(libc::RLIMIT_CORE, 0, 0)
}

/// Step 4. Nothing of where and how the caller was.
fn settle() -> Result<(), String> {
    // SAFETY: plain system calls; the string is NUL-terminated.
    unsafe {
        libc::umask(0o077);
        if libc::chdir(c"/".as_ptr()) != 0 {
            return Err(failed("/ cannot be entered"));
        }
    }
    Ok(())
}

/// Step 5. What will run is root's alone.
fn check_files() -> Result<(), String> {
    check_path(Path::new(PYTHON), MOST_LINKS)?;
    check_path(Path::new(TREE), MOST_LINKS)?;
    check_tree(Path::new(TREE))
}

/// Check everything on the way to `path`, through links, which must be root's as well.
fn check_path(path: &Path, links: u8) -> Result<(), String> {
    let mut seen = PathBuf::from("/");
    let mut parts = path.components().filter(|part| *part != Component::RootDir);
    check_one(&seen)?;
    while let Some(part) = parts.next() {
        seen.push(part);
        if !check_one(&seen)?.is_symlink() {
            continue;
        }
        let target = fs::read_link(&seen).map_err(|error| format!("{}: {error}", seen.display()))?;
        seen.pop();
        let rest: PathBuf = parts.collect();
        let links = links.checked_sub(1).ok_or_else(|| format!("{}: too many links", path.display()))?;
        return check_path(&seen.join(target).join(rest), links);
    }
    Ok(())
}

/// Check everything below `directory`, where nothing but directories and files has any business.
fn check_tree(directory: &Path) -> Result<(), String> {
    let unreadable = |error: io::Error| format!("{}: {error}", directory.display());
    for entry in fs::read_dir(directory).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let found = check_one(&path)?;
        if found.is_dir() {
            check_tree(&path)?;
        } else if !found.is_file() {
            return Err(format!("{} is neither a file nor a directory: sudo proxyvpn setup", path.display()));
        }
    }
    Ok(())
}

fn check_one(path: &Path) -> Result<Metadata, String> {
    let found = fs::symlink_metadata(path).map_err(|error| format!("{}: {error}", path.display()))?;
    match problem(found.uid(), found.mode(), found.is_symlink()) {
        Some(problem) if path.starts_with(TREE) => Err(format!("{} {problem}: sudo proxyvpn setup", path.display())),
        Some(problem) => Err(format!("{} {problem}, so what is in it cannot be trusted", path.display())),
        None => Ok(found),
    }
}

/// Pure: say why something cannot be trusted. A link has no mode of its own.
fn problem(owner: u32, mode: u32, link: bool) -> Option<&'static str> {
    match (owner, mode & 0o022, link) {
        (1.., _, _) => Some("does not belong to root"),
        (0, 1.., false) => Some("can be written by others than root"),
        _ => None,
    }
}

/// Step 6. CAP_NET_ADMIN and no other: permitted, inheritable, ambient. Last, so that nothing else ran with it.
fn pass_capability_on() -> Result<(), String> {
    let header = [CAPABILITY_VERSION_3, 0];
    let mut sets = [0_u32; 6]; // effective, permitted, inheritable; twice
    // SAFETY: header and sets have the layout of capget(2), version 3.
    if unsafe { libc::syscall(libc::SYS_capget, header.as_ptr(), sets.as_mut_ptr()) } != 0 {
        return Err(failed("capget"));
    }
    if sets[1] >> NET_ADMIN & 1 == 0 {
        return Err(format!("no capability: {}", why_missing()));
    }
    let only = [0, 1 << NET_ADMIN, 1 << NET_ADMIN, 0, 0, 0];
    // SAFETY: as above.
    if unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), only.as_ptr()) } != 0 {
        return Err(failed("capset"));
    }
    let raise = libc::c_ulong::from(libc::PR_CAP_AMBIENT_RAISE.unsigned_abs());
    // SAFETY: plain system call.
    if unsafe { libc::prctl(libc::PR_CAP_AMBIENT, raise, libc::c_ulong::from(NET_ADMIN), 0, 0) } != 0 {
        return Err(failed("the ambient capability (securebits may forbid it)"));
    }
    Ok(())
}

/// Say why the kernel did not grant what the file carries.
fn why_missing() -> &'static str {
    // SAFETY: plain system calls; the strings are NUL-terminated, and all zero is a valid statvfs.
    unsafe {
        if libc::prctl(libc::PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 {
            return "no_new_privs is set by whatever started this (a container, a service, a sandbox)";
        }
        if libc::prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(NET_ADMIN), 0, 0, 0) != 1 {
            return "CAP_NET_ADMIN is not in the bounding set (docker: --cap-add NET_ADMIN)";
        }
        let mut mount: libc::statvfs = std::mem::zeroed();
        if libc::statvfs(c"/proc/self/exe".as_ptr(), &raw mut mount) == 0 && mount.f_flag & libc::ST_NOSUID != 0 {
            return "it lies on a file system that is mounted nosuid";
        }
        let xattr = libc::getxattr(c"/proc/self/exe".as_ptr(), c"security.capability".as_ptr(), ptr::null_mut(), 0);
        if xattr < 0 {
            return "the file has lost it (it was copied or replaced): sudo proxyvpn setup";
        }
    }
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.starts_with("TracerPid:") && !line.ends_with("\t0")) {
        return "this process is being traced";
    }
    "the kernel did not grant it (is this a user namespace?)"
}

/// Step 7. Become the helper. Gives the line to say, since it only returns when it failed.
fn execute() -> String {
    let arguments = ARGUMENTS.map(CStr::as_ptr);
    let environment = ENVIRONMENT.map(CStr::as_ptr);
    let ended = |words: &[*const libc::c_char]| [words, &[ptr::null()]].concat();
    // SAFETY: both arrays end with a null pointer and point to constants.
    unsafe { libc::execve(arguments[0], ended(&arguments).as_ptr(), ended(&environment).as_ptr()) };
    failed(PYTHON)
}

fn limit(resource: Limit) -> Result<libc::rlimit, String> {
    let mut found = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `found` is valid for the call.
    match unsafe { libc::getrlimit(resource, &raw mut found) } {
        0 => Ok(found),
        _ => Err(failed("getrlimit")),
    }
}

fn set_limit(resource: Limit, soft: u64, hard: u64) -> Result<(), String> {
    let wanted = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `wanted` is valid for the call.
    match unsafe { libc::setrlimit(resource, &raw const wanted) } {
        0 => Ok(()),
        _ => Err(failed("setrlimit")),
    }
}

fn failed(what: &str) -> String {
    format!("{what}: {}", io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_root_alone_can_change_is_trusted() {
        for (owner, mode, link, trusted) in [
            (0, 0o100_755, false, true),
            (0, 0o100_750, false, true),
            (0, 0o120_777, true, true),
            (0, 0o100_775, false, false),
            (0, 0o100_757, false, false),
            (0, 0o041_777, false, false),
            (1000, 0o100_755, false, false),
            (1000, 0o120_777, true, false),
            (65_534, 0o040_755, false, false),
        ] {
            assert_eq!(problem(owner, mode, link).is_none(), trusted, "{owner} {mode:o} {link}");
        }
    }

    #[test]
    fn a_path_is_judged_link_by_link() {
        assert_eq!(check_path(Path::new("/proc/self/exe/.."), 0), Err("/proc/self/exe/..: too many links".to_owned()));
        assert!(check_path(Path::new("/nowhere/at/all"), MOST_LINKS).is_err());
        assert!(check_path(Path::new("/tmp/somebody"), MOST_LINKS).is_err(), "/tmp is everybody's");
    }
}
