//! `zonda verify`: whether a model is whole, and whether backends compute the same function of it. The comparison is
//! `zonda_bench::agreement`, its text `zonda_bench::passage`; here is who is compared with whom, and what is reported.

use crate::args::{JsonArg, ModelArg, OpenArgs};
use crate::error::{Usage, advised};
use crate::output::{self, Progress, Spinner};
use crate::{Context, interrupt};
use anyhow::Context as _;
use clap::Args;
use serde::Serialize;
use serde_json::json;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, BufWriter, Read as _, Seek as _, Write as _};
use std::num::NonZeroUsize;
use std::sync::Arc;
use zonda::Located;
use zonda::{BackendKind, OpenOptions};
use zonda_bench::agreement::{Agreement, AgreementError, Bounds, NEAR_TIE, Summary};
use zonda_bench::passage::{Passage, WalkError};
use zonda_convert::convert;
use zonda_engine::forward::BackendInfo;
use zonda_engine::load::{Model, check_finite};
use zonda_engine::{TextProcessor, TokenId};
use zonda_kernels::DType;

/// Check a model's files, and backends against each other on real prompts
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  zonda verify -m smollm2-135m --backend native,llama-cpp\n  \
    zonda verify -m smollm2-135m --exact --json\n\n\
    The first backend answers the project's own requests (benchmarks/verify); the others read the same tokens, and all \
    logits are compared: at how many positions the best token is the same, how far the distributions are apart, and how \
    far single logits. A near tie is a position at which the first backend's best token leads by less than 0.2 nats: rounding decides it. \
    Exit code 1 if a check fails or a bound is broken.")]
pub struct Verify {
    #[command(flatten)]
    model: ModelArg,
    /// Backends, separated by commas; all are compared with the first [default: all in this build that read the model].
    #[arg(long, value_delimiter = ',', value_name = "A,B", value_parser = crate::args::values::backend())]
    backend: Vec<BackendKind>,
    /// Compare also with the same weights as f32 under f32 activations: says how much of a difference is whose rounding.
    #[arg(long)]
    exact: bool,
    /// Positions to compare, or a few more.
    #[arg(long, value_name = "N", default_value = "1500")]
    positions: NonZeroUsize,
    /// Most tokens of an answer.
    #[arg(long, value_name = "N", default_value_t = 64)]
    answer: usize,
    /// Least share of the same best token where there is no near tie, in percent.
    #[arg(long, value_name = "PCT", default_value_t = 100.0 * Bounds::default().top1_decided)]
    min_top1: f64,
    /// Largest mean KL divergence, in nats.
    #[arg(long, value_name = "NATS", default_value_t = Bounds::default().kl_mean)]
    max_kl: f64,
    #[command(flatten)]
    json: JsonArg,
    #[command(flatten)]
    open: OpenArgs,
}

/// One thing that was looked at.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    ok: bool,
    detail: String,
}

/// Two backends compared.
#[derive(Debug, Serialize)]
struct Pair {
    reference: String,
    other: String,
    #[serde(flatten)]
    found: Summary,
    /// Bounds that it breaks, in words.
    broken: Vec<String>,
}

/// Whose logits are computed, and how.
struct Side {
    name: String,
    kind: BackendKind,
    model: Option<Arc<Model>>,
    options: OpenOptions,
}

impl Verify {
    pub fn run(self, context: &Context) -> anyhow::Result<()> {
        let located = context.store()?.locate(&self.model.model)?;
        let kinds = self.kinds(&located)?;
        let bounds = self.bounds()?;
        let mut checks = Vec::new();
        let (mut pairs, mut positions) = (Vec::new(), 0);
        if let Some((model, text)) = self.files(context, &located, &mut checks) {
            let scratch = tempfile::tempdir().context("a folder for a model in f32")?;
            let _removed = interrupt::scratch(scratch.path().to_owned());
            let mut sides: Vec<_> = kinds.iter().map(|&kind| self.side(kind, model.clone())).collect();
            if let Some(model) = model.filter(|_| self.exact) {
                sides.insert(0, self.exact(&model, scratch.path(), context.quiet)?);
            }
            (pairs, positions) = self.compare(context, &sides, text.as_ref(), bounds, &mut checks)?;
        }
        self.report(&located, positions, &checks, &pairs)?;
        verdict(&checks, &pairs)
    }

    fn kinds(&self, located: &Located) -> anyhow::Result<Vec<BackendKind>> {
        if self.backend.is_empty() {
            let all = BackendKind::AVAILABLE.iter().copied();
            return Ok(all.filter(|kind| kind.reads(located)).collect());
        }
        Ok(self
            .backend
            .iter()
            .map(|&kind| zonda::choose(Some(kind), located))
            .collect::<zonda::Result<_>>()?)
    }

    fn bounds(&self) -> anyhow::Result<Bounds> {
        if !(0.0..=100.0).contains(&self.min_top1) {
            return Err(Usage(format!("--min-top1: expected 0 to 100, found {}", self.min_top1)).into());
        }
        let at_least_none = self.max_kl >= 0.0; // false for NaN too
        if !at_least_none {
            return Err(Usage(format!("--max-kl: expected 0 or more, found {}", self.max_kl)).into());
        }
        Ok(Bounds { top1_decided: self.min_top1 / 100.0, kl_mean: self.max_kl, ..Bounds::default() })
    }

    fn side(&self, kind: BackendKind, model: Option<Arc<Model>>) -> Side {
        Side { name: kind.name().to_owned(), kind, model, options: self.open.options(None) }
    }

    /// The same weights as f32, and with them f32 activations and an f32 KV cache.
    fn exact(&self, model: &Model, folder: &std::path::Path, quiet: bool) -> anyhow::Result<Side> {
        let path = folder.join("exact.gguf");
        let bar = Progress::bytes("writing the weights as f32", 0, quiet);
        convert(model, &path, DType::F32, &mut |done, total| bar.set(done, total))?;
        bar.finish();
        let threads = self.open.threads.map(NonZeroUsize::get);
        let options = OpenOptions { threads, kv_type: Some(zonda::KvType::F32), ..OpenOptions::default() };
        let model = Some(Arc::new(Model::open(&path)?));
        Ok(Side { name: "exact".to_owned(), kind: BackendKind::Native, model, options })
    }

    /// Looks at the files. `None` if they are no model that could be run.
    #[allow(clippy::type_complexity)] // the model (`None` is the mock) and its text
    fn files(
        &self,
        context: &Context,
        located: &Located,
        checks: &mut Vec<Check>,
    ) -> Option<(Option<Arc<Model>>, Option<TextProcessor>)> {
        let mut check = |name: &str, result: anyhow::Result<String>| {
            let (ok, detail) = match result {
                Ok(detail) => (true, detail),
                Err(error) => (false, format!("{error:#}")),
            };
            checks.push(Check { name: name.to_owned(), ok, detail });
            ok
        };
        let Some(path) = &located.path else { return Some((None, Some(TextProcessor::mock()))) };
        let spinner = Spinner::start(format!("reading {}", located.name), context.quiet);
        let sums = context.store().and_then(|store| Ok(store.check(&self.model.model)?));
        check("files", sums.map(|sums| sums.unwrap_or_else(|| "no checksum is known for a path".to_owned())));
        let model = match Model::open(path) {
            Ok(model) => model,
            Err(error) => {
                check("tensors", Err(error.into()));
                return None;
            }
        };
        let count = model.tensors().len();
        let shapes = model.check().map(|()| format!("{count} tensors, all there in the expected shapes"));
        if !check("tensors", shapes.map_err(Into::into)) {
            return None;
        }
        let finite = model.spec.roles().try_for_each(|role| check_finite(&model.tensor(role)?));
        check("weights", finite.map(|()| "no NaN, no infinity".to_owned()).map_err(Into::into));
        drop(spinner);
        let text = zonda::text_of(Some(&model));
        let (vocab, said) = (model.spec.vocab_size, text.as_ref().ok().cloned().flatten());
        check("tokenizer", text.map_err(Into::into).and_then(|text| describe(text.as_ref(), vocab)));
        Some((Some(Arc::new(model)), said))
    }

    /// Walks every side through the same passages and compares each with the first; with an exact one in front, also
    /// with the first that was named. Returns the pairs and the number of positions.
    fn compare(
        &self,
        context: &Context,
        sides: &[Side],
        text: Option<&TextProcessor>,
        bounds: Bounds,
        checks: &mut Vec<Check>,
    ) -> anyhow::Result<(Vec<Pair>, usize)> {
        let references = if self.exact { 2 } else { 1 };
        let mut passages = Vec::new();
        let mut kept: Vec<(String, File)> = Vec::new();
        let mut pairs = Vec::new();
        for (i, side) in sides.iter().enumerate() {
            let spinner = Spinner::start(format!("computing logits with {}", side.name), context.quiet);
            let keep = i < references && i + 1 < sides.len();
            let walk = Walk { side, text, positions: self.positions.get(), answer: self.answer };
            let own = keep.then(tempfile::tempfile).transpose().context("a file for logits")?;
            // a thread of its own: a backend pins the thread that opens it
            let walked =
                std::thread::scope(|scope| scope.spawn(|| walk.run(&mut passages, &mut kept, own)).join());
            let walked = walked.unwrap_or_else(|_| Err(anyhow::anyhow!("the backend panicked")));
            drop(spinner);
            let name = format!("logits of {}", side.name);
            let (ok, detail) = match &walked {
                Ok(walked) => (true, walked.describe()),
                Err(error) => (false, format!("{error:#}")),
            };
            checks.push(Check { name, ok, detail });
            let Ok(walked) = walked else {
                if i == 0 {
                    return Ok((pairs, 0));
                }
                continue;
            };
            for (reference, agreement) in walked.compared {
                let Some(found) = agreement.summary() else { continue };
                let broken = bounds.broken(&found);
                pairs.push(Pair { reference, other: side.name.clone(), found, broken });
            }
            kept.extend(walked.rows.map(|rows| (side.name.clone(), rows)));
        }
        Ok((pairs, passages.iter().map(Passage::len).sum()))
    }

    fn report(
        &self,
        located: &Located,
        positions: usize,
        checks: &[Check],
        pairs: &[Pair],
    ) -> anyhow::Result<()> {
        if self.json.json {
            return output::json(&json!({
                "model": located.name,
                "positions": positions,
                "near_tie_nats": NEAR_TIE,
                "bounds": self.bounds()?,
                "checks": checks,
                "pairs": pairs,
            }));
        }
        let mut out = String::new();
        for check in checks {
            let mark = if check.ok { "ok    " } else { "FAILED" };
            let _ = writeln!(out, "{mark} {:<22} {}", check.name, check.detail);
        }
        for pair in pairs {
            let mark = if pair.broken.is_empty() { "ok    " } else { "FAILED" };
            let _ = writeln!(
                out,
                "\n{mark} {} against {}, {} positions",
                pair.other, pair.reference, pair.found.positions
            );
            for line in figures(&pair.found) {
                let _ = writeln!(out, "         {line}");
            }
        }
        output::print(&out)
    }
}

/// One side's way through the passages.
struct Walk<'a> {
    side: &'a Side,
    text: Option<&'a TextProcessor>,
    positions: usize,
    answer: usize,
}

/// What came of it.
struct Walked {
    info: BackendInfo,
    vocab: usize,
    positions: usize,
    /// Its own rows, for those that come later
    rows: Option<File>,
    compared: Vec<(String, Agreement)>,
}

impl Walked {
    fn describe(&self) -> String {
        let BackendInfo { version, device, weights, kv_type, .. } = &self.info;
        format!(
            "[{}, {}], no NaN, no infinity; version {version}, on {device}, weights {weights}, KV cache {kv_type}",
            self.positions, self.vocab
        )
    }
}

impl Walk<'_> {
    /// Opens the backend and walks. The first side chooses the passages and answers them; each one compares itself with
    /// the rows that were `kept`.
    fn run(
        &self,
        passages: &mut Vec<Passage>,
        kept: &mut [(String, File)],
        own: Option<File>,
    ) -> anyhow::Result<Walked> {
        let first = passages.is_empty();
        let vocab = self.side.model.as_ref().map(|model| model.spec.vocab_size);
        let prompts =
            if first { Passage::prompts(self.text, vocab.unwrap_or(0))? } else { std::mem::take(passages) };
        let longest = prompts.iter().map(|p| p.prompt.len()).max().unwrap_or(0) + self.answer;
        let mut options = self.side.options.clone();
        options.ctx =
            options.ctx.or_else(|| Some(longest.min(self.side.model.as_ref()?.spec.context_length)));
        let mut backend = zonda::open_backend(self.side.kind, self.side.model.as_ref(), &options)?;
        let mut walked = Walked {
            info: backend.info(),
            vocab: backend.spec().vocab_size,
            positions: 0,
            rows: None,
            compared: kept.iter().map(|(name, _)| (name.clone(), Agreement::default())).collect(),
        };
        let mut references = Vec::new();
        for (_, file) in kept {
            file.rewind()?;
            references.push(BufReader::with_capacity(1 << 20, file));
        }
        let mut own = own.map(|file| BufWriter::with_capacity(1 << 20, file));
        let mut reference = vec![0u8; walked.vocab * 4];
        let ends: &[TokenId] = self.text.map_or(&[], |text| text.tokenizer.end_tokens());
        for mut passage in prompts {
            if first && walked.positions >= self.positions {
                break;
            }
            let extend = first.then_some((self.answer, ends));
            let mut look = |row: &[f32]| -> anyhow::Result<()> {
                let position = walked.positions;
                walked.positions += 1;
                if let Some(token) = row.iter().position(|logit| !logit.is_finite()) {
                    return Err(AgreementError::NonFinite { position, side: "backend's", token }.into());
                }
                for ((_, agreement), rows) in walked.compared.iter_mut().zip(&mut references) {
                    rows.read_exact(&mut reference).context("reading back logits")?;
                    agreement.add(&floats(&reference), row)?;
                }
                if let Some(own) = &mut own {
                    let bytes: Vec<u8> = row.iter().flat_map(|logit| logit.to_le_bytes()).collect();
                    own.write_all(&bytes).context("keeping logits")?;
                }
                Ok(())
            };
            passage.walk(&mut *backend, extend, &mut look).map_err(|error| match error {
                WalkError::Backend(error) => error.into(),
                WalkError::Refused(error) => error,
            })?;
            passages.push(passage);
        }
        walked.rows = own.map(|file| file.into_inner().map_err(|e| e.into_error())).transpose()?;
        Ok(walked)
    }
}

fn floats(bytes: &[u8]) -> Vec<f32> {
    bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect()
}

/// What can be said of a tokenizer that fits its model.
fn describe(text: Option<&TextProcessor>, vocab: usize) -> anyhow::Result<String> {
    let Some(text) = text else { return Ok("none: the prompts are random token ids".to_owned()) };
    let tokens = text.tokenizer.vocab_size();
    if tokens > vocab {
        anyhow::bail!("{tokens} tokens, and the model has logits for {vocab} only");
    }
    let template = if text.template.is_some() { "with" } else { "without" };
    Ok(format!("{tokens} tokens, {template} chat template"))
}

/// A comparison in lines.
fn figures(found: &Summary) -> Vec<String> {
    let near = found.positions - found.decided;
    let near = format!("{near} near ties (a lead below {NEAR_TIE} nats)");
    let apart = match found.top1_decided {
        None => near,
        Some(top1) => format!("{:.2}% without {near}", 100.0 * top1),
    };
    vec![
        format!(
            "same best token  {:.2}%; {apart}; largest lead lost {:.2}, noise of the lead {:.3}",
            100.0 * found.top1,
            found.largest_lead_lost,
            found.lead_noise
        ),
        format!(
            "KL divergence    {:.5} nats on average, 99% below {:.4}, {:.4} at most",
            found.kl_mean, found.kl_p99, found.kl_max
        ),
        format!(
            "logits           {:.3} apart at most, {:.4} is the spread",
            found.max_abs_diff, found.spread
        ),
    ]
}

/// The first thing that is wrong, and how many more there are.
fn verdict(checks: &[Check], pairs: &[Pair]) -> anyhow::Result<()> {
    let failed = checks.iter().filter(|c| !c.ok).map(|c| format!("{}: {}", c.name, c.detail));
    let broken = pairs
        .iter()
        .flat_map(|p| p.broken.iter().map(move |b| format!("{} and {}: {b}", p.reference, p.other)));
    let mut wrong = failed.chain(broken);
    let Some(first) = wrong.next() else { return Ok(()) };
    let more = match wrong.count() {
        0 => String::new(),
        n => format!(" ({n} more)"),
    };
    Err(advised(
        format!("{first}{more}"),
        "`--exact` shows which backend is further from the exact logits; `--isa scalar` is native's plainest form",
    ))
}
