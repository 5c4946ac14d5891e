//! When the next attempt to connect is due: PROTOCOL §9, "full jitter".
//!
//! delay before attempt n = max(advice, uniform(0, window)), window = min(cap, base · 2ⁿ), and at least `spreadMs` from the second
//! delay on. The draw comes *after* the cap: clients that wait long stay spread over the whole window instead of gathering at its
//! end. Knows no clock: it draws a delay, and is told when a connection has proved stable.

use super::limits::{ADVICE_MS_MAX, BACKOFF_BASE_MS, BACKOFF_CAP_MS};
use super::random::Random;

/// The delays of one client.
#[derive(Debug)]
pub struct Backoff {
    base_ms: u64,
    cap_ms: u64,
    /// Delays drawn since the last stable connection.
    attempt: u32,
    /// Window over which the server wants a crowd of clients to come back, in ms; 0 if it has not said.
    spread_ms: u64,
    random: Random,
}

impl Backoff {
    /// With the protocol's base and cap. Equal seeds draw equal delays.
    pub fn new(seed: u64) -> Backoff {
        Backoff { base_ms: BACKOFF_BASE_MS, cap_ms: BACKOFF_CAP_MS, attempt: 0, spread_ms: 0, random: Random::new(seed) }
    }

    /// Which delay is drawn next, from 0.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    /// The server's `spreadMs`, clipped to [`ADVICE_MS_MAX`].
    pub fn set_spread(&mut self, spread_ms: u64) {
        self.spread_ms = spread_ms.min(ADVICE_MS_MAX);
    }

    /// The window that the next delay is drawn from, in ms.
    pub fn window_ms(&self) -> u64 {
        let factor = 1u64.checked_shl(self.attempt).unwrap_or(u64::MAX);
        let window = self.base_ms.saturating_mul(factor).min(self.cap_ms);
        if self.attempt == 0 { window } else { window.max(self.spread_ms) }
    }

    /// Draws the delay before the next attempt, in ms. `advice_ms` is the least that the server asked for, clipped to
    /// [`ADVICE_MS_MAX`].
    pub fn delay(&mut self, advice_ms: u64) -> u64 {
        let window = self.window_ms();
        self.attempt = self.attempt.saturating_add(1);
        self.random.up_to(window).max(advice_ms.min(ADVICE_MS_MAX))
    }

    /// The next window is the largest: for what trying soon again will not mend.
    pub fn raise_to_cap(&mut self) {
        while self.window_ms() < self.cap_ms {
            self.attempt += 1;
        }
    }

    /// The connection has been stable: the next delay is the first again.
    pub fn reset(&mut self) {
        self.attempt = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLES: usize = 20_000;

    /// Delays before attempt `attempt`, each of another client.
    fn samples(attempt: u32, spread_ms: u64, advice_ms: u64) -> Vec<u64> {
        let one = |seed: u64| {
            let mut backoff = Backoff::new(seed.wrapping_mul(0x2545_f491_4f6c_dd1d) ^ u64::from(attempt));
            backoff.set_spread(spread_ms);
            for _ in 0..attempt {
                backoff.delay(0);
            }
            assert_eq!(backoff.attempt(), attempt);
            backoff.delay(advice_ms)
        };
        let mut delays: Vec<u64> = (0..SAMPLES as u64).map(one).collect();
        delays.sort_unstable();
        delays
    }

    /// The largest distance between the samples' distribution and the uniform one on `0..=window` (Kolmogorov–Smirnov).
    fn distance_from_uniform(sorted: &[u64], window: u64) -> f64 {
        let count = sorted.len() as f64;
        let share = |(index, delay): (usize, &u64)| {
            let expected = (*delay as f64 + 0.5) / (window as f64 + 1.0);
            (expected - index as f64 / count).abs().max(((index + 1) as f64 / count - expected).abs())
        };
        sorted.iter().enumerate().map(share).fold(0.0, f64::max)
    }

    /// Above this a uniform sample of this size is refused with an error of 0.1 % (1.95 / √n), and a grid of 1 ms is allowed for.
    fn critical(window: u64) -> f64 {
        1.95 / (SAMPLES as f64).sqrt() + 1.0 / (window as f64 + 1.0)
    }

    #[test]
    fn delays_are_uniform_below_a_window_that_doubles_up_to_the_cap() {
        for attempt in 0..12 {
            let window = (500u64 << attempt).min(30_000);
            let delays = samples(attempt, 0, 0);
            let distance = distance_from_uniform(&delays, window);
            assert!(distance < critical(window), "attempt {attempt}: {distance}");
            assert!(delays.iter().all(|delay| *delay <= window), "attempt {attempt}");
            // Drawn after the cap: nothing gathers at the end of the window.
            let at_the_end = delays.iter().filter(|delay| **delay >= window - window / 100).count();
            assert!(at_the_end < SAMPLES / 50, "attempt {attempt}: {at_the_end} of {SAMPLES} wait for all of the window");
        }
    }

    #[test]
    fn the_distribution_test_can_fail() {
        let gathered: Vec<u64> = samples(8, 0, 0).into_iter().map(|delay| (delay * 4).min(30_000)).collect();
        assert!(distance_from_uniform(&gathered, 30_000) > 10.0 * critical(30_000));
    }

    /// The share of the samples that wait exactly as long as each other: those of the most frequent delay.
    fn share_of_equals(delays: &[u64]) -> f64 {
        let most = delays.chunk_by(|a, b| a == b).map(<[u64]>::len).max().unwrap_or(0);
        most as f64 / delays.len() as f64
    }

    /// The rule of socket.io-client with its defaults (1 s, doubled, jitter one half, at most 5 s), as its documentation has it: the draw
    /// moves the delay up or down by up to its half, by the parity of its first decimal, and the cap comes last.
    fn capped_after_the_draw(attempt: u32) -> Vec<u64> {
        let mut random = Random::new(u64::from(attempt));
        let mut delays: Vec<u64> = (0..SAMPLES)
            .map(|_| {
                let (delay, draw) = (1_000.0 * 2f64.powi(attempt as i32), random.up_to(999_999) as f64 / 1e6);
                let by = draw * 0.5 * delay;
                let moved = if ((draw * 10.0) as u64).is_multiple_of(2) { delay - by } else { delay + by };
                moved.min(5_000.0) as u64
            })
            .collect();
        delays.sort_unstable();
        delays
    }

    #[test]
    fn unlike_a_rule_that_draws_before_the_cap_hardly_any_delays_are_equal() {
        for attempt in 0..10 {
            let (ours, theirs) = (share_of_equals(&samples(attempt, 0, 0)), share_of_equals(&capped_after_the_draw(attempt)));
            println!(
                "attempt {}: equal delays {:.1} % of ours, {:.1} % if capped after the draw",
                attempt + 1,
                ours * 100.0,
                theirs * 100.0
            );
            // On a grid of 1 ms, windows of 500 ms and more.
            assert!(ours < 0.01, "attempt {attempt}: {ours}");
            assert!(attempt < 3 || theirs > 0.85, "attempt {attempt}: {theirs}, so this does not measure what it means to");
        }
    }

    #[test]
    fn advice_is_the_least_and_leaves_the_draws_above_it_alone() {
        let delays = samples(8, 0, 12_000);
        assert_eq!(delays[0], 12_000);
        let drawn: Vec<u64> = samples(8, 0, 0).into_iter().map(|delay| delay.max(12_000)).collect();
        assert_eq!(delays, drawn);
        assert_eq!(samples(0, 0, u64::MAX)[0], ADVICE_MS_MAX);
    }

    #[test]
    fn the_servers_spread_widens_every_window_but_the_first() {
        for (attempt, window) in [(0, 500), (1, 90_000), (2, 90_000), (9, 90_000)] {
            let delays = samples(attempt, 90_000, 0);
            assert!(distance_from_uniform(&delays, window) < critical(window), "attempt {attempt}");
        }
    }

    #[test]
    fn the_window_has_no_last_attempt_and_falls_back_only_by_a_reset() {
        let mut backoff = Backoff::new(3);
        for _ in 0..10_000 {
            assert!(backoff.delay(0) <= 30_000);
        }
        backoff.attempt = u32::MAX;
        assert!(backoff.delay(0) <= 30_000);
        assert_eq!(backoff.window_ms(), 30_000);
        backoff.reset();
        assert_eq!((backoff.attempt(), backoff.window_ms()), (0, 500));
        backoff.raise_to_cap();
        assert_eq!(backoff.window_ms(), 30_000);
    }
}
