//! Every method of every instruction set, lane by lane, against plain Rust; and the detection of a CPU's instruction sets.

use half::{bf16, f16};
use proptest::prelude::*;
use zonda_kernels::Isa;
use zonda_kernels::simd::{LANES, Op, Simd, dots_between};

type F = [f32; LANES];
type I = [i32; LANES];

/// The results of every method on the same arguments.
#[derive(Debug, PartialEq)]
struct Results {
    floats: Vec<(&'static str, F)>,
    ints: Vec<(&'static str, I)>,
    scalars: Vec<(&'static str, f32)>,
    bytes: [i8; LANES],
}

struct Args {
    a: F,
    b: F,
    c: F,
    /// The accumulators of the dot products.
    acc: I,
    /// Unsigned bytes.
    w: [u8; 64],
    /// Signed bytes, not −128.
    x: [i8; 64],
}

/// For [`Simd::entries`].
const TABLE: [u8; LANES] = [7, 255, 0, 128, 1, 2, 3, 250, 64, 65, 66, 9, 8, 200, 201, 127];

struct All<'a>(&'a Args);

impl Op for All<'_> {
    type Out = Results;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> Results {
        let args = self.0;
        let mut bytes = [0; LANES];
        // SAFETY: every pointer is to at least 16 lanes, except for the partial methods, which get the number of lanes.
        unsafe {
            let (a, b, c) = (s.load(args.a.as_ptr()), s.load(args.b.as_ptr()), s.load(args.c.as_ptr()));
            let acc = s.load_bytes(args.acc.as_ptr().cast());
            let (w, x) = (s.load_bytes(args.w.as_ptr()), s.load_bytes(args.x.as_ptr().cast()));
            let w7 = s.and(w, s.isplat(0x7f7f_7f7f));
            s.store_i8(bytes.as_mut_ptr(), s.round(a));
            let partial = s.load_partial(args.a.as_ptr(), 5, 7.0);
            let mut stored = [0.0; LANES];
            s.store_partial(stored.as_mut_ptr(), 11, a);
            let mut half = [f16::ZERO; LANES];
            s.store_f16(half.as_mut_ptr(), a);
            let floats = vec![
                ("splat", s.splat(args.a[3])),
                ("add", s.add(a, b)),
                ("sub", s.sub(a, b)),
                ("mul", s.mul(a, b)),
                ("div", s.div(a, b)),
                ("max", s.max(a, b)),
                ("min", s.min(a, b)),
                ("abs", s.abs(a)),
                ("fma", s.fma(a, b, c)),
                ("fnma", s.fnma(a, b, c)),
                ("load_f16", s.load_f16(half.as_ptr())),
                ("load_i8", s.load_i8(args.x.as_ptr())),
                ("load_u8", s.load_u8(args.w.as_ptr())),
                ("load_e8m0", s.load_e8m0(args.w.as_ptr())),
                ("load_e4m3", s.load_e4m3(args.w.as_ptr())),
                ("to_f", s.to_f(acc)),
                ("pow2", s.pow2(s.round(s.min(s.max(a, s.splat(-126.0)), s.splat(127.0))))),
                ("bf16_low", s.bf16_low(w7)),
                ("bf16_high", s.bf16_high(w7)),
                ("load_partial", partial),
                ("store_partial", s.load(stored.as_ptr())),
            ];
            let ints = vec![
                ("isplat", s.isplat(args.acc[5])),
                ("and", s.and(w, x)),
                ("or", s.or(w, x)),
                ("shl", s.shl::<3>(w)),
                ("shr", s.shr::<5>(w)),
                ("entries", s.entries(&TABLE, s.and(w, s.isplat(0x0f0f_0f0f)))),
                ("dot7", s.dot7(acc, w7, x)),
                ("dot8", dot8(s, acc, w, x)),
                ("round", s.round(a)),
            ];
            Results {
                floats: floats.into_iter().map(|(name, v)| (name, lanes(s, v))).collect(),
                ints: ints.into_iter().map(|(name, v)| (name, int_lanes(s, v))).collect(),
                scalars: vec![("sum", s.sum(a)), ("max_lane", s.max_lane(a))],
                bytes,
            }
        }
    }
}

/// [`Simd::dot8`], corrected for the 128 that some sets subtract from each weight.
#[inline(always)]
fn dot8<S: Simd>(s: S, acc: S::I, w: S::I, x: S::I) -> S::I {
    let mut acc = s.dot8(acc, w, x);
    if S::DOT8_CENTRES {
        for _ in 0..2 {
            acc = s.dot7(acc, s.isplat(0x4040_4040), x);
        }
    }
    acc
}

#[inline(always)]
fn lanes<S: Simd>(s: S, v: S::F) -> F {
    let mut out = [0.0; LANES];
    // SAFETY: 16 values.
    unsafe { s.store(out.as_mut_ptr(), v) };
    out
}

/// Stores integers 16 bits at a time as floats, which is exact: [`Simd`] has no store for integers.
#[inline(always)]
fn int_lanes<S: Simd>(s: S, v: S::I) -> I {
    let low = lanes(s, s.to_f(s.and(v, s.isplat(0xffff))));
    let high = lanes(s, s.to_f(s.shr::<16>(v)));
    std::array::from_fn(|i| low[i] as i32 | ((high[i] as i32) << 16))
}

/// The formula of e4m3, with numbers instead of NaN.
fn e4m3(code: u8) -> f32 {
    let (exponent, mantissa) = (i32::from(code >> 3 & 15), f32::from(code & 7) / 8.0);
    let size =
        if exponent == 0 { mantissa * 2f32.powi(-6) } else { (1.0 + mantissa) * 2f32.powi(exponent - 7) };
    if code > 127 { -size } else { size }
}

fn quad(bytes: &[u8; 64], lane: usize) -> i32 {
    i32::from_le_bytes(bytes[4 * lane..][..4].try_into().unwrap())
}

/// The documented results of the methods, in plain Rust.
fn expected(args: &Args) -> Results {
    let Args { a, b, c, acc, w, x } = args;
    let f = |g: &dyn Fn(usize) -> f32| -> F { std::array::from_fn(g) };
    let i = |g: &dyn Fn(usize) -> i32| -> I { std::array::from_fn(g) };
    let signed: [u8; 64] = x.map(|x| x as u8);
    let w7 = w.map(|w| w & 0x7f);
    let dot = |w: &[u8; 64], x: &dyn Fn(usize) -> i8, lane: usize| {
        (4 * lane..4 * lane + 4).fold(acc[lane], |sum, j| sum + i32::from(w[j]) * i32::from(x(j)))
    };
    let round = |v: f32| v.round_ties_even() as i32;
    let floats = vec![
        ("splat", f(&|_| a[3])),
        ("add", f(&|l| a[l] + b[l])),
        ("sub", f(&|l| a[l] - b[l])),
        ("mul", f(&|l| a[l] * b[l])),
        ("div", f(&|l| a[l] / b[l])),
        ("max", f(&|l| a[l].max(b[l]))),
        ("min", f(&|l| a[l].min(b[l]))),
        ("abs", f(&|l| a[l].abs())),
        ("fma", f(&|l| a[l].mul_add(b[l], c[l]))),
        ("fnma", f(&|l| (-a[l]).mul_add(b[l], c[l]))),
        ("load_f16", f(&|l| f16::from_f32(a[l]).to_f32())),
        ("load_i8", f(&|l| f32::from(x[l]))),
        ("load_u8", f(&|l| f32::from(w[l]))),
        (
            "load_e8m0",
            f(&|l| match w[l] {
                0 => 0.0,
                255 => f32::INFINITY,
                e => (f32::from(e) - 127.0).exp2(),
            }),
        ),
        ("load_e4m3", f(&|l| e4m3(w[l]) / 256.0)),
        ("to_f", f(&|l| acc[l] as f32)),
        ("pow2", f(&|l| (round(a[l].clamp(-126.0, 127.0)) as f32).exp2())),
        ("bf16_low", f(&|l| bf16::from_bits(quad(&w7, l) as u16).to_f32())),
        ("bf16_high", f(&|l| bf16::from_bits((quad(&w7, l) >> 16) as u16).to_f32())),
        ("load_partial", f(&|l| if l < 5 { a[l] } else { 7.0 })),
        ("store_partial", f(&|l| if l < 11 { a[l] } else { 0.0 })),
    ];
    let ints = vec![
        ("isplat", i(&|_| acc[5])),
        ("and", i(&|l| quad(w, l) & quad(&signed, l))),
        ("or", i(&|l| quad(w, l) | quad(&signed, l))),
        ("shl", i(&|l| quad(w, l) << 3)),
        ("shr", i(&|l| ((quad(w, l) as u32) >> 5) as i32)),
        (
            "entries",
            i(&|l| i32::from_le_bytes(std::array::from_fn(|j| TABLE[usize::from(w[4 * l + j] & 15)]))),
        ),
        ("dot7", i(&|l| dot(&w7, &|j| x[j], l))),
        ("dot8", i(&|l| dot(w, &|j| x[j], l))),
        ("round", i(&|l| round(a[l]))),
    ];
    let bytes = std::array::from_fn(|l| round(a[l]).clamp(-128, 127) as i8);
    let scalars = vec![("sum", a.iter().sum()), ("max_lane", a.iter().copied().fold(f32::MIN, f32::max))];
    Results { floats, ints, scalars, bytes }
}

fn check(args: &Args) {
    let want = expected(args);
    for isa in Isa::all() {
        let (got, on) = (isa.run(All(args)), isa.describe());
        for ((name, got), (_, want)) in got.floats.iter().zip(&want.floats) {
            for l in 0..LANES {
                // Sets without a fused multiply-add round twice.
                let size = (args.a[l] * args.b[l]).abs() + want[l].abs();
                let slack = if matches!(*name, "fma" | "fnma") { size * f32::EPSILON } else { 0.0 };
                let same = got[l] == want[l] || (got[l].is_nan() && want[l].is_nan());
                assert!(
                    same || (got[l] - want[l]).abs() <= slack,
                    "{name} on {on}: lane {l} is {}, expected {}",
                    got[l],
                    want[l]
                );
            }
        }
        assert_eq!(got.ints, want.ints, "on {on}");
        assert_eq!(got.bytes, want.bytes, "store_i8 on {on}");
        let size: f32 = args.a.iter().map(|a| a.abs()).sum();
        assert!((got.scalars[0].1 - want.scalars[0].1).abs() <= 1e-5 * size, "sum on {on}");
        assert_eq!(got.scalars[1], want.scalars[1], "on {on}");
    }
}

fn lanes_of(values: impl Strategy<Value = f32> + Clone) -> impl Strategy<Value = F> {
    prop::collection::vec(values, LANES).prop_map(|v| v.try_into().unwrap())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn methods_mean_the_same_on_every_set(
        a in lanes_of(-200.0f32..200.0),
        b in lanes_of(0.01f32..9.0),
        c in lanes_of(-1e3f32..1e3),
        acc in prop::collection::vec(-1_000_000i32..1_000_000, LANES),
        w in prop::collection::vec(any::<u8>(), 64),
        x in prop::collection::vec(-127i8..=127, 64),
    ) {
        let (acc, w, x) = (acc.try_into().unwrap(), w.try_into().unwrap(), x.try_into().unwrap());
        check(&Args { a, b, c, acc, w, x });
    }
}

#[test]
fn the_largest_dot_products_are_exact() {
    let ties: F = std::array::from_fn(|l| l as f32 - 7.5);
    for w in [0, 1, 127, 128, 254, 255] {
        for x in [[-127; 64], [127; 64], std::array::from_fn(|j| if j % 3 == 0 { 127 } else { -127 })] {
            check(&Args { a: ties, b: [1.0; LANES], c: ties, acc: [-3; LANES], w: [w; 64], x });
        }
    }
}

/// As many consecutive products of the largest codes of `bits` as fit.
struct Chain {
    bits: usize,
    x: i8,
}

impl Op for Chain {
    type Out = I;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> I {
        let w = s.isplat(0x0101_0101 * ((1 << self.bits) - 1));
        let x = s.isplat(i32::from_le_bytes([self.x as u8; 4]));
        let acc = s.isplat(-70_000);
        let mut dots = s.open(acc);
        for _ in 0..dots_between(self.bits) {
            dots = s.dot(dots, w, x);
        }
        int_lanes(s, s.close(acc, dots))
    }
}

#[test]
fn products_between_open_and_close_are_exact() {
    for bits in 1..=7 {
        for x in [-127, 127] {
            let products = 4 * dots_between(bits) as i32 * ((1 << bits) - 1) * i32::from(x);
            for isa in Isa::all() {
                let got = isa.run(Chain { bits, x });
                assert_eq!(got, [products - 70_000; LANES], "{bits} bits on {}", isa.describe());
            }
        }
    }
}

/// `bf16` products are exact in `f32`; the hardware decides how their sums are rounded.
struct DotBf16<'a>(&'a [[u16; 2 * LANES]; 2], F);

impl Op for DotBf16<'_> {
    type Out = F;

    #[inline(always)]
    fn run<S: Simd>(self, s: S) -> F {
        // SAFETY: 64 bytes each, and 16 lanes.
        let sums = unsafe {
            let (w, a) = (s.load_bytes(self.0[0].as_ptr().cast()), s.load_bytes(self.0[1].as_ptr().cast()));
            s.dot_bf16(s.load(self.1.as_ptr()), w, a)
        };
        lanes(s, sums)
    }
}

#[test]
fn bf16_dot_products_are_right() {
    let value = |i: usize| bf16::from_f32(((i * 37 + 11) % 64) as f32 / 8.0 - 4.0);
    let args = [std::array::from_fn(|i| value(i).to_bits()), std::array::from_fn(|i| value(i + 9).to_bits())];
    let acc: F = std::array::from_fn(|l| l as f32 / 3.0 - 2.0);
    for isa in Isa::all() {
        let got = isa.run(DotBf16(&args, acc));
        for l in 0..LANES {
            let product = |i: usize| f64::from(value(i).to_f32()) * f64::from(value(i + 9).to_f32());
            let want = f64::from(acc[l]) + product(2 * l) + product(2 * l + 1);
            let error = (f64::from(got[l]) - want).abs();
            assert!(error <= 4e-6, "lane {l} is {}, expected {want} on {}", got[l], isa.describe());
        }
    }
}

/// `ZONDA_EXPECT_SETS`, if set, lists the instruction sets that must be detected, best first, separated by `;`.
#[test]
fn the_sets_of_this_cpu_are_detected() {
    let found: Vec<_> = Isa::all().iter().map(|isa| isa.describe()).collect();
    assert_eq!(found.last(), Some(&"scalar"), "every CPU runs plain Rust");
    for isa in Isa::all() {
        assert!(Isa::NAMES.contains(&isa.name()));
        let best = Isa::named(isa.name()).unwrap().describe();
        let first = found.iter().find(|d| d.starts_with(isa.name())).unwrap();
        assert_eq!(best, *first, "the best set named {}", isa.name());
    }
    if let Ok(expected) = std::env::var("ZONDA_EXPECT_SETS") {
        assert_eq!(found.join("; "), expected);
    }
}
