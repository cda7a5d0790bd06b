//! What this process uses: CPU time and resident memory.

use std::pin::pin;
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::time::{Instant, interval_at, sleep};

/// Shares of a core below this are nothing to do.
const QUIET: f64 = 0.03;
/// How long a process must have nothing to do to be at rest.
const REST: Duration = Duration::from_millis(500);
/// After this long its rest is not waited for any more.
const PATIENCE: Duration = Duration::from_secs(60);

/// The CPU time that this process has used, over all threads.
#[must_use]
pub fn cpu() -> Duration {
    clock(rustix::time::ClockId::ProcessCPUTime)
}

/// The machine's own clock, the same in every process.
#[must_use]
pub fn machine_time() -> Duration {
    clock(rustix::time::ClockId::Monotonic)
}

fn clock(id: rustix::time::ClockId) -> Duration {
    let time = rustix::time::clock_gettime(id);
    Duration::new(
        time.tv_sec.unsigned_abs(),
        time.tv_nsec.unsigned_abs() as u32,
    )
}

/// The memory of this process that is in RAM, in bytes: `VmRSS` of `/proc/self/status`.
///
/// # Errors
/// The system is not Linux.
pub fn resident() -> Result<u64> {
    resident_of("self")
}

fn resident_of(process: &str) -> Result<u64> {
    let path = format!("/proc/{process}/status");
    let status = std::fs::read_to_string(path).context("no such process, or no /proc")?;
    let kib = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next())
        .context("no VmRSS in the status")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// Raises the number of files that this process may have open to what the system allows it.
///
/// # Errors
/// The system refuses.
pub fn raise_file_limit() -> Result<()> {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if current != maximum {
        let current = maximum;
        setrlimit(Resource::Nofile, Rlimit { current, maximum })?;
    }
    Ok(())
}

/// Starts a thread that a profiler knows by its name.
///
/// # Errors
/// The system refuses.
pub fn named(
    name: &str,
    work: impl FnOnce() -> Result<()> + Send + 'static,
) -> Result<JoinHandle<Result<()>>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).context("no thread")
}

/// Waits for a thread's end.
///
/// # Errors
/// Its own, or it panicked.
pub fn join<T>(thread: JoinHandle<Result<T>>) -> Result<T> {
    thread.join().map_err(|_| anyhow!("a thread panicked"))?
}

/// The times outside the kernel and in it that a `stat` of `/proc` tells.
fn times(stat: &str) -> Result<[Duration; 2]> {
    // proc_pid_stat(5): the name, field 2, may hold anything; `utime` and `stime` are 14 and 15.
    let (_, fields) = stat.rsplit_once(')').context("no name in the statistics")?;
    let mut fields = fields.split_ascii_whitespace().skip(11);
    let a_second = rustix::param::clock_ticks_per_second() as f64;
    let mut next = || {
        let ticks: u64 = fields.next().context("no time")?.parse()?;
        anyhow::Ok(Duration::from_secs_f64(ticks as f64 / a_second))
    };
    Ok([next()?, next()?])
}

/// Another process, seen from outside.
#[derive(Debug, Clone)]
pub struct Observed(String);

impl Observed {
    /// The process of this number.
    #[must_use]
    pub fn new(process: u32) -> Self {
        Self(process.to_string())
    }

    /// The CPU time that it has used, over all threads, to the system's tick: 10 ms as a rule.
    ///
    /// # Errors
    /// The system is not Linux, or the process has ended.
    pub fn cpu(&self) -> Result<Duration> {
        let path = format!("/proc/{}/stat", self.0);
        let stat = std::fs::read_to_string(path).context("no such process, or no /proc")?;
        let [user, kernel] = times(&stat)?;
        Ok(user + kernel)
    }

    /// Its memory that is in RAM, in bytes.
    ///
    /// # Errors
    /// As [`cpu`](Self::cpu).
    pub fn resident(&self) -> Result<u64> {
        resident_of(&self.0)
    }
}

/// The processor time of one thread, to be read by any other of this process.
#[derive(Debug, Clone)]
pub struct ThreadClock(String);

impl ThreadClock {
    /// The clock of the thread that asks for it.
    #[must_use]
    pub fn of_this_thread() -> Self {
        let thread = rustix::thread::gettid().as_raw_nonzero();
        Self(format!("/proc/self/task/{thread}"))
    }

    /// The time that the thread has spent on the processor so far.
    ///
    /// # Errors
    /// The system is not Linux, or the thread has ended.
    pub fn read(&self) -> Result<Duration> {
        // Linux, "Scheduler Statistics": the first number is the time on the processor.
        let text = self.file("schedstat")?;
        let nanoseconds = text.split_ascii_whitespace().next().context("no time")?;
        Ok(Duration::from_nanos(nanoseconds.parse()?))
    }

    /// The part of that time spent in the kernel, to a hundredth of a second.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub fn kernel(&self) -> Result<Duration> {
        let [_, kernel] = times(&self.file("stat")?)?;
        Ok(kernel)
    }

    fn file(&self, name: &str) -> Result<String> {
        let path = format!("{}/{name}", self.0);
        std::fs::read_to_string(&path).with_context(|| format!("no {path}"))
    }
}

/// What a piece of work used.
#[derive(Debug, Clone, Copy, Default)]
pub struct Usage {
    /// On the clock.
    pub wall: Duration,
    /// Of the CPU.
    pub cpu: Duration,
    /// The share of one core in the busiest second; of the whole, if that was shorter.
    pub peak: f64,
}

impl Usage {
    /// The share of one core.
    #[must_use]
    pub fn share(&self) -> f64 {
        share(self.cpu, self.wall)
    }

    /// Microseconds of CPU for each of so many.
    #[must_use]
    pub fn cpu_us_each(&self, count: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count.max(1) as f64
    }
}

fn share(cpu: Duration, wall: Duration) -> f64 {
    cpu.as_secs_f64() / wall.as_secs_f64().max(1e-9)
}

/// Runs a piece of work and tells what this process used meanwhile.
///
/// # Cancel safety
/// As safe as the work.
pub async fn metered<F: Future>(work: F) -> (F::Output, Usage) {
    const SECOND: Duration = Duration::from_secs(1);
    let (cpu_before, started) = (cpu(), Instant::now());
    let (mut second_cpu, mut second_started) = (cpu_before, started);
    let mut peak: f64 = 0.0;
    let mut seconds = interval_at(started + SECOND, SECOND);
    let mut work = pin!(work);
    let output = loop {
        tokio::select! {
            output = &mut work => break output,
            _ = seconds.tick() => {
                let (now_cpu, now) = (cpu(), Instant::now());
                peak = peak.max(share(now_cpu - second_cpu, now - second_started));
                (second_cpu, second_started) = (now_cpu, now);
            }
        }
    };
    let (wall, cpu) = (started.elapsed(), cpu() - cpu_before);
    if peak == 0.0 {
        peak = share(cpu, wall);
    }
    (output, Usage { wall, cpu, peak })
}

/// Waits until this process has nothing to do, a minute at most.
pub async fn rest() {
    let deadline = Instant::now() + PATIENCE;
    while Instant::now() < deadline {
        let ((), usage) = metered(sleep(REST)).await;
        if usage.share() < QUIET {
            return;
        }
    }
}
