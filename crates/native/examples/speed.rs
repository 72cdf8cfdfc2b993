//! Prefill and decode speed of one model: `speed MODEL [pp] [tg] [isa]`.
use std::{path::Path, sync::Arc, time::Instant};
use zonda_engine::forward::{Backend, Batch, Logits, Span, Want};
use zonda_engine::load::Model;
use zonda_native::{Native, NativeOptions};
fn main() {
    let a: Vec<String> = std::env::args().collect();
    let pp: usize = a.get(2).map_or(512, |s| s.parse().unwrap());
    let tg: usize = a.get(3).map_or(128, |s| s.parse().unwrap());
    let isa = a.get(4).map(|s| zonda_kernels::Isa::named(s).unwrap());
    let threads = a.get(5).map(|s| s.parse().unwrap());
    let t = Instant::now();
    let model = Arc::new(Model::open(Path::new(&a[1])).unwrap());
    let mut n =
        Native::open(&model, &NativeOptions { isa, threads, context: Some(2048), ..Default::default() })
            .unwrap();
    println!("load {:?} {:?}", t.elapsed(), n.info());
    let mut out = Logits::new();
    let ids: Vec<u32> = (0..pp as u32).map(|i| (i * 7919) % 30000).collect();
    for _ in 0..5 {
        n.truncate(0, 0).unwrap();
        let t = Instant::now();
        for (i, c) in ids.chunks(512).enumerate() {
            n.forward(
                &Batch { spans: vec![Span { slot: 0, start: i * 512, tokens: c, want: Want::Last }] },
                &mut out,
            )
            .unwrap();
        }
        let pps = pp as f64 / t.elapsed().as_secs_f64();
        n.truncate(0, 0).unwrap();
        let t = Instant::now();
        for i in 0..tg {
            n.forward(
                &Batch {
                    spans: vec![Span {
                        slot: 0,
                        start: i,
                        tokens: &ids[i % pp..i % pp + 1],
                        want: Want::Last,
                    }],
                },
                &mut out,
            )
            .unwrap();
        }
        println!("pp {pps:.0} tok/s  tg {:.1} tok/s", tg as f64 / t.elapsed().as_secs_f64());
    }
}
