//! The threads that send requests on time.

use super::plan::{Arrivals, End, LoadPlan, MOST_AT_ONCE};
use super::request::{Asked, Outcome, Refusal, Transport, ask};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::thread::Builder;
use std::time::{Duration, Instant, SystemTime};

/// How often a waiting thread checks whether it should stop.
const LOOK: Duration = Duration::from_millis(50);

/// The results of a load.
#[derive(Clone, Debug)]
pub struct Driven {
    /// All requests, in the order in which they were due.
    pub asked: Vec<Asked>,
    /// When it began.
    pub started: SystemTime,
    /// From the beginning to the end of the last answer.
    pub wall: Duration,
    /// The user interrupted it.
    pub partial: bool,
}

/// State shared by the threads.
struct Shared<'a> {
    transport: &'a dyn Transport,
    plan: &'a LoadPlan,
    began: Instant,
    stop: &'a AtomicBool,
    asked: Mutex<Vec<Asked>>,
    /// Called with the number of answered requests.
    progress: &'a (dyn Fn(usize) + Sync),
}

impl Shared<'_> {
    fn note(&self, asked: Asked) {
        let mut all = self.asked.lock().unwrap_or_else(PoisonError::into_inner);
        all.push(asked);
        (self.progress)(all.len());
    }

    fn ask(&self, index: usize, due: Instant) {
        self.note(ask(self.transport, self.plan, index, self.began, due, self.stop));
    }

    /// True if request `index`, due `at` after the beginning, should still be sent.
    fn wanted(&self, index: usize, at: Duration) -> bool {
        let within = match self.plan.end {
            End::Requests(n) => index < n,
            End::Duration(limit) => at < limit,
        };
        within && !self.stop.load(Ordering::Relaxed)
    }
}

/// Sends all requests and waits for their answers. `stop` ends it early; `progress` gets the number of answered requests.
pub fn run(
    plan: &LoadPlan,
    transport: &dyn Transport,
    stop: &AtomicBool,
    progress: &(dyn Fn(usize) + Sync),
) -> Driven {
    let (started, began) = (SystemTime::now(), Instant::now());
    let shared = Shared { transport, plan, began, stop, asked: Mutex::default(), progress };
    match plan.arrivals {
        Arrivals::Closed { concurrency } => closed(&shared, concurrency),
        Arrivals::Open { rate } => open(&shared, rate),
    }
    let wall = began.elapsed();
    let mut asked = shared.asked.into_inner().unwrap_or_else(PoisonError::into_inner);
    asked.sort_by_key(|a| a.index);
    Driven { asked, started, wall, partial: stop.load(Ordering::Relaxed) }
}

fn closed(shared: &Shared<'_>, concurrency: usize) {
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..concurrency {
            let client = || {
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if !shared.wanted(index, shared.began.elapsed()) {
                        return;
                    }
                    shared.ask(index, Instant::now());
                }
            };
            if let Err(error) = Builder::new().spawn_scoped(scope, client) {
                // The load is another one than was asked for, and the report says so.
                let index = next.fetch_add(1, Ordering::Relaxed);
                let why = format!("not sent: the system starts no thread for another client: {error}");
                shared.note(unsent(index, shared.began.elapsed(), Instant::now(), why));
                return;
            }
        }
    });
}

fn open(shared: &Shared<'_>, rate: f64) {
    let running = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for (index, at) in shared.plan.due(rate).enumerate() {
            if !shared.wanted(index, at) {
                return;
            }
            let due = shared.began + at;
            while Instant::now() < due && !shared.stop.load(Ordering::Relaxed) {
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(LOOK));
            }
            if !shared.wanted(index, at) {
                return;
            }
            if running.fetch_add(1, Ordering::SeqCst) >= MOST_AT_ONCE {
                running.fetch_sub(1, Ordering::SeqCst);
                let why = format!("not sent: {MOST_AT_ONCE} requests were waiting for their answers");
                shared.note(unsent(index, at, due, why));
                continue;
            }
            let now_running = &running;
            let request = move || {
                shared.ask(index, due);
                now_running.fetch_sub(1, Ordering::SeqCst);
            };
            if let Err(error) = Builder::new().spawn_scoped(scope, request) {
                running.fetch_sub(1, Ordering::SeqCst);
                let why = format!("not sent: the system starts no further thread: {error}");
                shared.note(unsent(index, at, due, why));
            }
        }
    });
}

/// A request that was not sent.
fn unsent(index: usize, at: Duration, due: Instant, why: String) -> Asked {
    Asked {
        index,
        due_ms: at.as_secs_f64() * 1e3,
        late_ms: due.elapsed().as_secs_f64() * 1e3,
        deliveries_ms: Vec::new(),
        end_ms: 0.0,
        prompt_tokens: None,
        cached_tokens: None,
        generated: None,
        reasoning: 0,
        shows_reasoning: false,
        finish_reason: None,
        outcome: Outcome::Failed(Refusal { status: None, why }),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::tests::plan;
    use super::*;
    use std::io::Read;

    /// Answers with two deliveries and refuses every third request. Counts concurrent requests.
    #[derive(Default)]
    struct Server {
        asked: AtomicUsize,
        now: AtomicUsize,
        most: AtomicUsize,
    }

    impl Transport for Server {
        fn post(&self, _: &str, _: &str) -> Result<Box<dyn Read + Send>, Refusal> {
            let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
            self.most.fetch_max(now, Ordering::SeqCst);
            std::thread::yield_now();
            self.now.fetch_sub(1, Ordering::SeqCst);
            if self.asked.fetch_add(1, Ordering::SeqCst) % 3 == 2 {
                return Err(Refusal { status: Some(429), why: "full".to_owned() });
            }
            let event = "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n";
            Ok(Box::new(std::io::Cursor::new(format!("{event}{event}data: [DONE]\n"))))
        }
    }

    fn check(driven: &Driven, requests: usize) {
        let indices: Vec<usize> = driven.asked.iter().map(|a| a.index).collect();
        assert_eq!(indices, (0..requests).collect::<Vec<_>>());
        let failed = driven.asked.iter().filter(|a| matches!(a.outcome, Outcome::Failed(_))).count();
        assert_eq!(failed, requests / 3);
        assert!(!driven.partial);
    }

    #[test]
    fn a_closed_loop_sends_all_requests_with_one_per_client_at_a_time() {
        let server = Server::default();
        let plan = LoadPlan { end: End::Requests(30), ..plan() };
        let driven = run(&plan, &server, &AtomicBool::new(false), &|_| {});
        check(&driven, 30);
        assert!(server.most.into_inner() <= 2);
    }

    #[test]
    fn an_open_loop_sends_requests_when_due_and_measures_from_then() {
        let plan = LoadPlan { arrivals: Arrivals::Open { rate: 2000.0 }, end: End::Requests(60), ..plan() };
        let driven = run(&plan, &Server::default(), &AtomicBool::new(false), &|_| {});
        check(&driven, 60);
        let due: Vec<f64> = plan.due(2000.0).take(60).map(|d| d.as_secs_f64() * 1e3).collect();
        for (asked, due) in driven.asked.iter().zip(due) {
            assert!((asked.due_ms - due).abs() < 1e-3);
            assert!(asked.late_ms >= 0.0);
            assert!(asked.ttft_ms().is_none_or(|t| t >= asked.late_ms), "{asked:?}");
        }
    }

    #[test]
    fn a_time_limit_and_the_user_end_it() {
        let plan = LoadPlan {
            arrivals: Arrivals::Open { rate: 1000.0 },
            end: End::Duration(Duration::from_millis(20)),
            ..plan()
        };
        let driven = run(&plan, &Server::default(), &AtomicBool::new(false), &|_| {});
        assert!(driven.asked.iter().all(|a| a.due_ms < 20.0) && !driven.asked.is_empty());
        let stopped = run(&plan, &Server::default(), &AtomicBool::new(true), &|_| {});
        assert!(stopped.partial && stopped.asked.is_empty());
    }
}
