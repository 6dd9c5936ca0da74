//! What the worker gives up, for good, before it sees the first packet: numbered steps, each on its own.
//!
//! After them a process that was taken over can read and write the descriptors that it has, open TCP connections to
//! the ports of the proxies (of any address: Landlock knows ports), and nothing else: no file, no program, no signal, no
//! other socket, no ioctl (a TUN descriptor could be made persistent with one), no mark or interface of its choice. What this kernel cannot enforce is reported, not passed over.
//!
//! prctl(2), setrlimit(2), landlock(7), seccomp(2). Capabilities and the uid have been given up before, in Python.

use std::collections::BTreeMap;
use std::io;

use landlock::{
    ABI, Access, AccessFs, AccessNet, NetPort, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, Scope,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};

use crate::error::Error;

/// The newest version of Landlock whose restrictions were tried.
const LANDLOCK: ABI = ABI::V6;

/// Take all steps; `ports` are those of the proxies. Give a line for each thing that this kernel cannot enforce.
pub fn enter(ports: &[u16]) -> Result<Vec<String>, Error> {
    give_up_privileges_of_programs()?;
    leave_no_core()?;
    let unrestricted = [restrict_files_and_ports(ports)?, restrict_system_calls()?];
    Ok(unrestricted.into_iter().flatten().map(str::to_owned).collect())
}

/// Step 1. No program that this process might start gains anything. Must come before steps 3 and 4, which need it.
fn give_up_privileges_of_programs() -> Result<(), Error> {
    // SAFETY: plain system call.
    check("no_new_privs", unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) })
}

/// Step 2. Memory holds the proxy's password: no core file, and nobody else may read it (ptrace(2), /proc/PID/mem).
fn leave_no_core() -> Result<(), Error> {
    let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `none` is valid for the call.
    check("core limit", unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const none) })?;
    // SAFETY: plain system call.
    check("not dumpable", unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) })
}

/// Step 3. No file at all; TCP only to `ports`; no signal to, and no abstract socket of, anyone outside.
fn restrict_files_and_ports(ports: &[u16]) -> Result<Option<&'static str>, Error> {
    let failed = |error: landlock::RulesetError| Error::Sandbox("Landlock", io::Error::other(error));
    let ruleset = Ruleset::default()
        .handle_access(AccessFs::from_all(LANDLOCK))
        .and_then(|ruleset| ruleset.handle_access(AccessNet::from_all(LANDLOCK)))
        .and_then(|ruleset| ruleset.scope(Scope::from_all(LANDLOCK)))
        .and_then(Ruleset::create)
        .map_err(failed)?;
    let rules = ports.iter().map(|&port| Ok(NetPort::new(port, AccessNet::ConnectTcp)));
    let status = ruleset.add_rules(rules).and_then(landlock::RulesetCreated::restrict_self).map_err(failed)?;
    Ok(match status.ruleset {
        RulesetStatus::FullyEnforced => None,
        RulesetStatus::PartiallyEnforced => Some("this kernel's Landlock is too old to restrict all that it should"),
        RulesetStatus::NotEnforced => Some("this kernel has no Landlock, so connections to other ports are possible"),
    })
}

/// Step 4. Only the system calls that the packet threads and the Python thread beside them make. Must be the last.
fn restrict_system_calls() -> Result<Option<&'static str>, Error> {
    // glibc starts threads by clone3, whose flags a filter cannot see; told that it is missing, by clone.
    let without_clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let installed = install(without_clone3, SeccompAction::Allow, errno(libc::ENOSYS))?
        && install(allowed()?, errno(libc::EPERM), SeccompAction::Allow)?;
    Ok((!installed).then_some("this kernel has no seccomp filters, so system calls are not restricted"))
}

fn check(step: &'static str, result: libc::c_int) -> Result<(), Error> {
    if result < 0 { Err(Error::Sandbox(step, io::Error::last_os_error())) } else { Ok(()) }
}

fn errno(number: libc::c_int) -> SeccompAction {
    SeccompAction::Errno(number as u32)
}

/// Install a filter; says whether this kernel can.
fn install(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    otherwise: SeccompAction,
    matching: SeccompAction,
) -> Result<bool, Error> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(seccomp)?;
    let filter = SeccompFilter::new(rules, otherwise, matching, arch).map_err(seccomp)?;
    let program: BpfProgram = filter.try_into().map_err(seccomp)?;
    match seccompiler::apply_filter_all_threads(&program) {
        Ok(()) => Ok(true),
        Err(seccompiler::Error::Seccomp(error)) if is_unknown(&error) => Ok(false),
        Err(error) => Err(Error::Sandbox("seccomp", io::Error::other(error))),
    }
}

/// What a kernel without CONFIG_SECCOMP_FILTER answers.
fn is_unknown(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL))
}

fn seccomp(error: seccompiler::BackendError) -> Error {
    Error::Sandbox("seccomp", io::Error::other(error))
}

/// System calls that are harmless whatever their arguments.
const HARMLESS: &[libc::c_long] = &[
    // descriptors that are there
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_pwrite64,
    libc::SYS_close,
    libc::SYS_shutdown,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_getsockname,
    libc::SYS_fstat,
    libc::SYS_lseek,
    // connections: to where is Landlock's, and of which kind is said below
    libc::SYS_connect,
    // waiting
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_eventfd2,
    libc::SYS_ppoll,
    libc::SYS_pselect6,
    libc::SYS_futex,
    libc::SYS_nanosleep,
    libc::SYS_clock_nanosleep,
    libc::SYS_restart_syscall,
    libc::SYS_sched_yield,
    // memory, without execution, which is said below
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // threads, and what the run-time libraries ask about themselves
    libc::SYS_clone3, // answered with ENOSYS by the other filter
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_gettimeofday,
    libc::SYS_sysinfo,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// Older names of the same, which only some machines have.
#[cfg(target_arch = "x86_64")]
const OLD_NAMES: &[libc::c_long] = &[libc::SYS_epoll_wait, libc::SYS_poll, libc::SYS_select];
#[cfg(not(target_arch = "x86_64"))]
const OLD_NAMES: &[libc::c_long] = &[];

fn allowed() -> Result<BTreeMap<i64, Vec<SeccompRule>>, Error> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        HARMLESS.iter().chain(OLD_NAMES).map(|&call| (call, Vec::new())).collect();
    let stream = u64::from(libc::SOCK_STREAM as u32);
    let kind = 0xf;
    // Landlock knows TCP alone: MPTCP and SCTP could connect to any port
    let tcp = |family: libc::c_int| all(vec![equal(0, family as u64)?, masked(1, kind, stream)?, equal(2, 0)?]);
    rules.insert(libc::SYS_socket, vec![tcp(libc::AF_INET)?, tcp(libc::AF_INET6)?]);
    // ... and connect(2) alone: TCP Fast Open connects without it
    let fast_open = libc::MSG_FASTOPEN as u64;
    rules.insert(libc::SYS_sendto, vec![all(vec![masked(3, fast_open, 0)?, null(4)?])?]);
    rules.insert(libc::SYS_sendmsg, vec![all(vec![masked(2, fast_open, 0)?])?]);
    let options: Result<_, Error> =
        OPTIONS.iter().map(|&(level, name)| all(vec![equal(1, level as u64)?, equal(2, name as u64)?])).collect();
    rules.insert(libc::SYS_setsockopt, options?);
    let not_executable = || all(vec![masked(2, libc::PROT_EXEC as u64, 0)?]);
    rules.insert(libc::SYS_mmap, vec![not_executable()?]);
    rules.insert(libc::SYS_mprotect, vec![not_executable()?]);
    let thread = libc::CLONE_THREAD as u64;
    rules.insert(libc::SYS_clone, vec![all(vec![masked(0, thread, thread)?])?]);
    rules.insert(
        libc::SYS_prctl,
        vec![all(vec![equal(0, libc::PR_SET_NAME as u64)?])?, all(vec![equal(0, PR_SET_VMA)?])?],
    );
    // a limit of our own may be read, not set
    let no_new_limit = SeccompCondition::new(2, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0).map_err(seccomp)?;
    rules.insert(libc::SYS_prlimit64, vec![all(vec![equal(0, 0)?, no_new_limit])?]);
    let fcntl = [libc::F_DUPFD_CLOEXEC, libc::F_GETFL, libc::F_SETFL, libc::F_GETFD, libc::F_SETFD];
    let fcntl: Result<_, Error> = fcntl.iter().map(|&command| all(vec![equal(1, command as u64)?])).collect();
    rules.insert(libc::SYS_fcntl, fcntl?);
    rules.insert(libc::SYS_ioctl, vec![all(vec![equal(1, libc::FIONBIO)?])?]);
    Ok(rules)
}

/// The socket options that are set, and no others: some choose an interface, a mark or a source route.
const OPTIONS: &[(libc::c_int, libc::c_int)] = &[
    (libc::SOL_SOCKET, libc::SO_KEEPALIVE),
    (libc::SOL_SOCKET, libc::SO_LINGER),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
];

/// glibc and Rust name anonymous memory for /proc/PID/maps.
const PR_SET_VMA: u64 = 0x5356_4d41;

fn all(conditions: Vec<SeccompCondition>) -> Result<SeccompRule, Error> {
    SeccompRule::new(conditions).map_err(seccomp)
}

fn equal(argument: u8, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value).map_err(seccomp)
}

fn null(argument: u8) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0).map_err(seccomp)
}

fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition, Error> {
    SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::MaskedEq(mask), value).map_err(seccomp)
}
