//! The web page: its files, its content security policy, sanitised Markdown, the bench report, and access with keys.

mod common;

use axum::body::Body;
use axum::http::Request;
use common::{Answer, get, post, send, server, server_with};
use serde_json::json;
use std::sync::Arc;
use zonda_engine::EngineConfig;
use zonda_engine::mock::MockOptions;
use zonda_server::{Config, Keys, Reports, Server};

fn with(config: Config) -> Arc<Server> {
    server_with(config, MockOptions::default(), EngineConfig::default())
}

async fn get_with(server: &Arc<Server>, path: &str, header: &str, value: &str) -> Answer {
    send(server, Request::get(path).header(header, value).body(Body::empty()).unwrap()).await
}

/// The parts of `text` between each `before` and the next quote.
fn quoted<'a>(text: &'a str, before: &str) -> Vec<&'a str> {
    text.split(before).skip(1).filter_map(|rest| rest.split('"').next()).collect()
}

#[tokio::test]
async fn every_file_named_by_the_page_exists() {
    let server = server();
    let page = get(&server, "/").await;
    assert_eq!((page.status.as_u16(), page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    let mut names: Vec<String> =
        ["href=\"", "src=\""].iter().flat_map(|b| quoted(page.text(), b)).map(str::to_owned).collect();
    names.retain(|n| n.starts_with("/ui/"));
    assert!(names.len() >= 6, "{names:?}");
    let mut seen = 0;
    while let Some(name) = names.get(seen).cloned() {
        let file = get(&server, &name).await;
        assert_eq!(file.status, 200, "{name}");
        let kind = file.header("content-type").unwrap();
        let expected = [(".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")];
        assert!(expected.iter().any(|(end, k)| name.ends_with(end) && kind.starts_with(k)), "{name}: {kind}");
        for import in quoted(file.text(), "from \"./") {
            let import = format!("/ui/{import}");
            if !names.contains(&import) {
                names.push(import);
            }
        }
        seen += 1;
    }
    assert!(seen > 12, "{names:?}");
    get(&server, "/ui/nothing.js").await.fails(404, "nothing.js");
    get(&server, "/ui/..%2fCargo.toml").await.fails(404, "Cargo.toml");
}

#[tokio::test]
async fn the_page_runs_only_its_own_files() {
    let server = server();
    for path in ["/", "/ui/main.js"] {
        let file = get(&server, path).await;
        let policy = file.header("content-security-policy").unwrap();
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self'"), "{policy}");
        assert!(
            policy.contains("require-trusted-types-for 'script'") && !policy.contains("unsafe"),
            "{policy}"
        );
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert!(!file.text().contains("https://"), "{path} names another server");
    }
    let page = get(&server, "/").await;
    for inline in [" style=\"", " onclick", " onload", "<style", "<script>"] {
        assert!(!page.text().contains(inline), "{inline}");
    }
}

#[tokio::test]
async fn a_cached_file_is_not_sent_again() {
    let server = server();
    let first = get(&server, "/ui/main.js").await;
    let tag = first.header("etag").unwrap();
    assert_eq!(first.header("cache-control"), Some("no-cache"));
    let again = get_with(&server, "/ui/main.js", "if-none-match", tag).await;
    assert_eq!((again.status.as_u16(), again.body.len()), (304, 0));
    assert_eq!(get_with(&server, "/ui/chat.js", "if-none-match", tag).await.status, 200);
}

#[tokio::test]
async fn markdown_is_sanitised() {
    let texts = json!({"texts": ["**a**", "<script>alert(1)</script>", ""]});
    let html = post(&server(), "/ui/render", texts).await.ok()["html"].clone();
    assert_eq!(html[0], "<p><strong>a</strong></p>\n");
    assert!(html[1].as_str().unwrap().contains("&lt;script&gt;"), "{html}");
    assert_eq!(html[2], "");
    post(&server(), "/ui/render", json!({"texts": "a"})).await.fails(400, "texts");
}

#[tokio::test]
async fn with_keys_the_page_is_public_and_its_services_are_not() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("report.html");
    std::fs::write(&file, "<p>bench</p>").unwrap();
    let server = with(Config { keys: Keys::new(["k"]), reports: Reports::File(file), ..Config::default() });
    for open in ["/", "/ui/main.js"] {
        assert_eq!(get(&server, open).await.status, 200, "{open}");
    }
    post(&server, "/ui/render", json!({"texts": ["a"]})).await.fails(401, "key");
    get(&server, "/ui/report").await.fails(401, "key");
    get(&server, "/ui/report/guess").await.fails(404, "address");
    let report = get_with(&server, "/ui/report", "authorization", "Bearer k").await.ok();
    let page = get(&server, report["url"].as_str().unwrap()).await;
    assert_eq!((page.status.as_u16(), page.text()), (200, "<p>bench</p>"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.starts_with("sandbox allow-scripts; default-src 'none'"), "{policy}");
    assert!(!policy.contains("same-origin"), "{policy}");
}

#[tokio::test]
async fn the_last_report_is_served_in_its_own_format() {
    let folder = tempfile::tempdir().unwrap();
    let server = with(Config { reports: Reports::Newest(folder.path().to_owned()), ..Config::default() });
    let report = get(&server, "/ui/report").await.ok();
    assert!(report["why"].as_str().unwrap().contains("zonda bench"), "{report}");
    std::fs::create_dir(folder.path().join("one")).unwrap();
    let write = |name: &str, text: &str| std::fs::write(folder.path().join("one").join(name), text).unwrap();
    write("results.json", "{\"summary\": []}");
    assert_eq!(get(&server, "/ui/report").await.ok()["record"], json!({"summary": []}));
    write("results.json", "{");
    assert!(get(&server, "/ui/report").await.ok()["why"].as_str().unwrap().contains("results.json"));
    write("report.md", "# Bench\n<script>x</script>");
    let html = get(&server, "/ui/report").await.ok()["html"].clone();
    assert!(html.as_str().unwrap().contains("<h1>Bench</h1>") && !html.to_string().contains("<script"));
    write("report.html", "<p>");
    assert!(get(&server, "/ui/report").await.ok()["url"].as_str().unwrap().starts_with("/ui/report/"));
    let nowhere = get(&common::server(), "/ui/report").await.ok();
    assert!(nowhere["why"].as_str().unwrap().contains("was not told"), "{nowhere}");
}
