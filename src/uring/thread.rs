//! What a thread tells the kernel about itself: the core that it runs on.

use std::io;

/// Keeps the kernel from making huge pages of this process's memory, so that lazily touched tables are resident page by page:
/// with huge pages, the first record of a table would cost 2 MiB. Linux 3.15.
///
/// # Errors
/// What `prctl(PR_SET_THP_DISABLE)` says.
pub fn disable_huge_pages() -> io::Result<()> {
    // SAFETY: the call takes numbers only.
    if unsafe { libc::prctl(libc::PR_SET_THP_DISABLE, 1, 0, 0, 0) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Cores that this process may run on, in ascending order.
///
/// # Errors
/// What `sched_getaffinity` says.
pub fn cores() -> io::Result<Vec<usize>> {
    // SAFETY: a set of all-zero bits is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the set is writable and of the size that is passed.
    if unsafe { libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &mut set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    let all = 0..libc::CPU_SETSIZE as usize;
    // SAFETY: every core is below CPU_SETSIZE, the bound of the set.
    Ok(all.filter(|&core| unsafe { libc::CPU_ISSET(core, &set) }).collect())
}

/// Keeps the calling thread on one core.
///
/// # Errors
/// EINVAL: no such core, or it is not one that the process may use.
pub fn pin(core: usize) -> io::Result<()> {
    if core >= libc::CPU_SETSIZE as usize {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: a set of all-zero bits is the empty set.
    let mut set: libc::cpu_set_t = unsafe { std::mem::zeroed() };
    // SAFETY: the core is below CPU_SETSIZE, the bound of the set.
    unsafe { libc::CPU_SET(core, &mut set) };
    // SAFETY: the set is readable and of the size that is passed.
    if unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &set) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
