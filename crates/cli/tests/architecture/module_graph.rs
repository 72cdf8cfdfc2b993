//! Which files of a crate use items of which others: the graph behind the rules on circles and on the order of modules.
//!
//! It reads paths from a file's tokens (`use` trees and paths in code) and follows them through re-exports to the file that
//! defines the item. It ignores test modules and does not see methods that are called without a path.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// The other files of the crate that each file uses, by path below `src`.
#[derive(Debug)]
pub struct ModuleGraph {
    /// Each file with the files that it uses.
    pub uses: BTreeMap<String, BTreeSet<String>>,
}

/// A module with its own file.
#[derive(Debug, Default)]
struct Module {
    file: String,
    /// Names that `use` brings into scope, with their paths as written and whether they are re-exports.
    names: BTreeMap<String, (Vec<String>, bool)>,
    /// Paths of glob imports as written.
    globs: Vec<Vec<String>>,
    /// Names of items that the file defines.
    defines: BTreeSet<String>,
    /// Paths in the code, each with the inline modules around it.
    paths: Vec<(Vec<String>, Vec<String>)>,
    /// Single identifiers in the code, to see whether a re-exported name is used as well.
    words: BTreeSet<String>,
}

type Modules = BTreeMap<Vec<String>, Module>;

impl ModuleGraph {
    /// Reads the crate in `src`, a folder with `lib.rs` or `main.rs`.
    pub fn read(src: &Path) -> ModuleGraph {
        let root = if src.join("lib.rs").is_file() { "lib.rs" } else { "main.rs" };
        let text = |file: &str| std::fs::read_to_string(src.join(file)).ok();
        ModuleGraph::from_files(root, &text)
    }

    /// Reads a crate from a function that gives the text of a file.
    pub fn from_files(root: &str, text: &dyn Fn(&str) -> Option<String>) -> ModuleGraph {
        let mut modules = Modules::new();
        let mut pending = vec![(Vec::<String>::new(), root.to_owned())];
        while let Some((path, file)) = pending.pop() {
            let Some(source) = text(&file) else { continue };
            let (module, children) = Module::parse(&source);
            let folder = match file.rsplit_once('/') {
                Some((folder, "mod.rs")) => format!("{folder}/"),
                _ if path.is_empty() => String::new(),
                _ => format!("{}/", file.trim_end_matches(".rs")),
            };
            for (name, given) in children {
                let beside = file.rsplit_once('/').map_or(String::new(), |(folder, _)| format!("{folder}/"));
                let candidates = match given {
                    Some(given) => vec![format!("{beside}{given}")],
                    None => vec![format!("{folder}{name}.rs"), format!("{folder}{name}/mod.rs")],
                };
                if let Some(found) = candidates.into_iter().find(|c| text(c).is_some()) {
                    pending.push(([path.clone(), vec![name]].concat(), found));
                }
            }
            modules.insert(path, Module { file, ..module });
        }
        let uses =
            modules.iter().map(|(path, module)| (module.file.clone(), used_by(&modules, path, module)));
        ModuleGraph { uses: uses.collect() }
    }

    /// The circles: sets of files each of which uses, directly or not, every other of the set.
    pub fn circles(&self) -> Vec<Vec<String>> {
        let reach: BTreeMap<&str, BTreeSet<&str>> =
            self.uses.keys().map(|file| (file.as_str(), self.reachable(file))).collect();
        let mut seen = BTreeSet::new();
        let mut circles = Vec::new();
        for file in self.uses.keys() {
            let back = |other: &&str| reach.get(other).is_some_and(|r| r.contains(file.as_str()));
            let circle: Vec<String> =
                reach[file.as_str()].iter().copied().filter(back).map(str::to_owned).collect();
            if circle.len() > 1 && seen.insert(circle.clone()) {
                circles.push(circle);
            }
        }
        circles
    }

    /// Every file that `file` uses, directly or not.
    fn reachable(&self, file: &str) -> BTreeSet<&str> {
        let mut found = BTreeSet::new();
        let mut pending: Vec<&str> = self.uses.get(file).into_iter().flatten().map(String::as_str).collect();
        while let Some(next) = pending.pop() {
            if found.insert(next) {
                pending.extend(self.uses.get(next).into_iter().flatten().map(String::as_str));
            }
        }
        found
    }
}

/// The other files that a module uses.
fn used_by(modules: &Modules, path: &[String], module: &Module) -> BTreeSet<String> {
    let mut used = BTreeSet::new();
    let mut add = |from: &[String], written: &[String], only_items: bool| {
        let Some(absolute) = absolute(modules, from, path, written) else { return };
        if only_items && modules.contains_key(&absolute) {
            return; // importing a module does not use its items yet
        }
        let file = defining_file(modules, &absolute, 0);
        used.extend(file.filter(|file| *file != module.file));
    };
    for (name, (written, reexport)) in &module.names {
        if !reexport || module.words.contains(name) {
            add(path, written, true);
        }
    }
    for written in &module.globs {
        add(path, written, false);
    }
    for (written, inline) in &module.paths {
        add(&[path, inline].concat(), written, false);
    }
    used
}

/// A path as written, from the crate's root; `None` if it leads out of the crate.
fn absolute(modules: &Modules, from: &[String], file: &[String], written: &[String]) -> Option<Vec<String>> {
    let mut base = from.to_vec();
    let mut rest = written;
    match rest.first()?.as_str() {
        "crate" => (base, rest) = (Vec::new(), &rest[1..]),
        "self" => rest = &rest[1..],
        "super" => {
            while rest.first().is_some_and(|s| s == "super") {
                base.pop()?;
                rest = &rest[1..];
            }
        }
        first => {
            let child = [base.clone(), vec![first.to_owned()]].concat();
            if !modules.contains_key(&child) {
                let (named, _) = modules.get(file)?.names.get(first)?;
                if named.first().is_some_and(|n| n == first) {
                    return None; // `use x::…` of another crate
                }
                let start = absolute(modules, file, file, named)?;
                return Some([&start, &rest[1..]].concat());
            }
        }
    }
    Some([&base, rest].concat())
}

/// The file that defines the item at an absolute path, followed through re-exports.
fn defining_file(modules: &Modules, path: &[String], depth: usize) -> Option<String> {
    let known = (0..=path.len()).rev().find(|&n| modules.contains_key(&path[..n]))?;
    let (module, rest) = (&modules[&path[..known]], &path[known..]);
    let Some(item) = rest.first().filter(|_| depth < 16) else { return Some(module.file.clone()) };
    if module.defines.contains(item) {
        return Some(module.file.clone());
    }
    if let Some((written, _)) = module.names.get(item)
        && let Some(start) = absolute(modules, &path[..known], &path[..known], written)
    {
        return defining_file(modules, &[&start, &rest[1..]].concat(), depth + 1);
    }
    for written in &module.globs {
        let Some(start) = absolute(modules, &path[..known], &path[..known], written) else { continue };
        if modules.get(&start).is_some_and(|m| m.defines.contains(item) || m.names.contains_key(item)) {
            return defining_file(modules, &[&start, rest].concat(), depth + 1);
        }
    }
    Some(module.file.clone())
}

/// A child module: its name, and the file from a `#[path]`.
type Child = (String, Option<String>);

impl Module {
    /// Reads a file's text.
    fn parse(text: &str) -> (Module, Vec<Child>) {
        let tokens = tokens(text);
        let mut module = Module::default();
        let mut children = Vec::new();
        // Inline modules around the current token, with the brace depth at which each ends.
        let mut inline: Vec<(String, usize)> = Vec::new();
        let (mut depth, mut at) = (0, 0);
        let (mut test, mut given, mut public) = (false, None, false);
        while at < tokens.len() {
            let token = tokens[at].as_str();
            let next = |n: usize| tokens.get(at + n).map_or("", String::as_str);
            match token {
                "#" => {
                    let end = closing(&tokens, at + 1);
                    let attribute = &tokens[at..=end];
                    test |= attribute.iter().any(|t| t == "cfg") && attribute.iter().any(|t| t == "test");
                    if attribute.get(2).is_some_and(|t| t == "path") {
                        given = attribute.get(4).map(|t| t.trim_matches('"').to_owned());
                    }
                    at = end + 1;
                    continue;
                }
                "pub" => {
                    public = true;
                    at = if next(1) == "(" { closing(&tokens, at + 1) + 1 } else { at + 1 };
                    continue;
                }
                "mod" if next(2) == ";" => {
                    if !test {
                        children.push((next(1).to_owned(), given.take()));
                    }
                    at += 2;
                }
                "mod" if next(2) == "{" => {
                    if test {
                        at = closing(&tokens, at + 2);
                    } else {
                        inline.push((next(1).to_owned(), depth));
                        depth += 1;
                        at += 2;
                    }
                }
                "use" => {
                    let end = (at..tokens.len()).find(|&i| tokens[i] == ";").unwrap_or(tokens.len());
                    if !test {
                        let within: Vec<String> = inline.iter().map(|(name, _)| name.clone()).collect();
                        module.add_use(&tokens[at + 1..end], &within, public);
                    }
                    at = end;
                }
                "fn" | "struct" | "enum" | "type" | "trait" | "const" | "static" | "union" => {
                    let named = next(1).chars().next().is_some_and(|c| c.is_alphabetic() || c == '_');
                    if depth == 0 && named && next(1) != "fn" {
                        module.defines.insert(next(1).to_owned());
                    }
                    if test && depth == 0 && token != "const" {
                        // A test helper: skip its body.
                        let body = (at..tokens.len()).find(|&i| tokens[i] == "{" || tokens[i] == ";");
                        at = body.map_or(at, |b| if tokens[b] == "{" { closing(&tokens, b) } else { b });
                    }
                }
                "{" => depth += 1,
                "}" => {
                    depth = depth.saturating_sub(1);
                    inline.retain(|(_, ends)| *ends < depth);
                }
                _ if is_word(token) => {
                    let mut path = vec![token.to_owned()];
                    while next(2 * path.len() - 1) == "::" && is_word(next(2 * path.len())) {
                        path.push(next(2 * path.len()).to_owned());
                    }
                    at += 2 * (path.len() - 1);
                    module.words.insert(path[0].clone());
                    if path.len() > 1 {
                        module.paths.push((path, inline.iter().map(|(name, _)| name.clone()).collect()));
                    }
                }
                _ => {}
            }
            (test, given, public) = (false, None, false);
            at += 1;
        }
        (module, children)
    }

    /// Takes the tree of a `use`, without `use` and `;`.
    fn add_use(&mut self, tree: &[String], inline: &[String], public: bool) {
        let mut leaves = Vec::new();
        expand(tree, &mut Vec::new(), &mut leaves);
        for (path, name) in leaves {
            match name.as_str() {
                "*" if inline.is_empty() => self.globs.push(path),
                "*" | "" => {}
                _ if inline.is_empty() => {
                    self.names.insert(name, (path, public));
                }
                _ => self.paths.push((path, inline.to_vec())),
            }
        }
    }
}

/// Turns a `use` tree into paths, each with the name it is imported under: `*` for globs.
fn expand(tree: &[String], prefix: &mut Vec<String>, leaves: &mut Vec<(Vec<String>, String)>) {
    let (mut at, before) = (0, prefix.len());
    while at < tree.len() {
        match tree[at].as_str() {
            "::" => {}
            "{" => {
                let end = closing(tree, at);
                let (mut start, mut nested) = (at + 1, 0);
                for i in at + 1..=end {
                    match tree[i].as_str() {
                        "{" => nested += 1,
                        "}" if i < end => nested -= 1,
                        "," if nested == 0 => {
                            expand(&tree[start..i], prefix, leaves);
                            start = i + 1;
                        }
                        _ => {}
                    }
                }
                expand(&tree[start..end], prefix, leaves);
                prefix.truncate(before);
                return;
            }
            "*" => {
                leaves.push((prefix.clone(), "*".to_owned()));
                prefix.truncate(before);
                return;
            }
            "as" => {
                leaves.push((prefix.clone(), tree[at + 1].clone()));
                prefix.truncate(before);
                return;
            }
            "self" if !prefix.is_empty() => {}
            word => prefix.push(word.to_owned()),
        }
        at += 1;
    }
    if !tree.is_empty() {
        let name = prefix.last().cloned().unwrap_or_default();
        leaves.push((prefix.clone(), name));
    }
    prefix.truncate(before);
}

/// The index of the bracket that closes the one at `open`.
fn closing(tokens: &[String], open: usize) -> usize {
    let mut depth = 0usize;
    for (i, token) in tokens.iter().enumerate().skip(open) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => {
                depth = depth.saturating_sub(1);
                if depth == 0 {
                    return i;
                }
            }
            _ => {}
        }
    }
    tokens.len().saturating_sub(1)
}

fn is_word(token: &str) -> bool {
    token.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// The tokens of a text: words, `::`, string literals and single characters, without comments and character literals.
fn tokens(text: &str) -> Vec<String> {
    let chars: Vec<char> = text.chars().collect();
    let mut tokens = Vec::new();
    let mut at = 0;
    while at < chars.len() {
        let (c, next) = (chars[at], chars.get(at + 1).copied().unwrap_or(' '));
        let word_end = |from: usize| {
            let word = |c: &char| c.is_alphanumeric() || *c == '_';
            from + chars[from..].iter().take_while(|c| word(c)).count()
        };
        if c == '/' && next == '/' {
            at += chars[at..].iter().take_while(|&&c| c != '\n').count();
        } else if c == '/' && next == '*' {
            let mut depth = 1;
            at += 2;
            while at < chars.len() && depth > 0 {
                match (chars[at], chars.get(at + 1)) {
                    ('/', Some('*')) => (depth, at) = (depth + 1, at + 2),
                    ('*', Some('/')) => (depth, at) = (depth - 1, at + 2),
                    _ => at += 1,
                }
            }
        } else if c == '"' {
            let start = at;
            at += 1;
            while at < chars.len() && chars[at] != '"' {
                at += if chars[at] == '\\' { 2 } else { 1 };
            }
            at += 1;
            tokens.push(chars[start..at.min(chars.len())].iter().collect());
        } else if matches!(c, 'r' | 'b' | 'c') && raw_string_end(&chars, at).is_some() {
            at = raw_string_end(&chars, at).unwrap_or(at + 1);
        } else if c == '\'' {
            // A character literal, or a lifetime.
            at += match (next, chars.get(at + 2)) {
                ('\\', _) => 3 + chars[at + 3..].iter().take_while(|&&c| c != '\'').count() + 1,
                (_, Some('\'')) => 3,
                _ => word_end(at + 1) - at,
            };
        } else if c.is_alphabetic() || c == '_' {
            let end = word_end(at);
            tokens.push(chars[at..end].iter().collect());
            at = end;
        } else if c.is_ascii_digit() {
            at = word_end(at);
        } else if c == ':' && next == ':' {
            tokens.push("::".to_owned());
            at += 2;
        } else {
            if !c.is_whitespace() {
                tokens.push(c.to_string());
            }
            at += 1;
        }
    }
    tokens
}

/// The position after the raw string (`r"…"`, `br#"…"#`) that begins at `at`, if one does.
fn raw_string_end(chars: &[char], at: usize) -> Option<usize> {
    if at > 0 && (chars[at - 1].is_alphanumeric() || chars[at - 1] == '_') {
        return None;
    }
    let prefix = chars[at..].iter().take_while(|c| c.is_ascii_alphabetic()).count();
    let name: String = chars[at..at + prefix].iter().collect();
    if !matches!(name.as_str(), "r" | "br" | "cr") {
        return None;
    }
    let hashes = chars[at + prefix..].iter().take_while(|&&c| c == '#').count();
    let open = at + prefix + hashes;
    if chars.get(open) != Some(&'"') {
        return None;
    }
    let end = (open + 1..chars.len())
        .find(|&i| chars[i] == '"' && chars[i + 1..].iter().take_while(|&&c| c == '#').count() >= hashes)?;
    Some(end + 1 + hashes)
}
