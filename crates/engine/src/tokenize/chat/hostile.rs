//! Templates that overflowed the stack, ran for ever or took all memory: each ends with its text or an error.

use super::*;
use crate::tokenize::Tokenizer;
use std::cell::Cell;
use std::time::Duration;

fn compile(source: &str) -> Result<ChatTemplate, TemplateError> {
    ChatTemplate::new(source, &Tokenizer::mock())
}

fn render(source: &str) -> Result<String, TemplateError> {
    let messages = [Message::user("hi"), Message::assistant("yo")];
    compile(source).unwrap().render(&messages, &RenderOptions::default())
}

/// A source that makes `ns.x` a list within a list, and so on, `levels` deep.
fn nested(levels: usize, item: &str) -> String {
    let (loops, rounds) = (levels / 1000, levels.min(1000));
    let inner = format!("{{% for i in range({rounds}) %}}{{% set ns.x = {item} %}}{{% endfor %}}");
    let all = format!("{{% for j in range({}) %}}{inner}{{% endfor %}}", loops.max(1));
    format!("{{% set ns = namespace(x=[]) %}}{all}")
}

#[test]
fn long_chains_are_refused_when_the_template_is_read() {
    // The last is as long as the source may be.
    for bytes in [30_000, 100_000, 262_000] {
        let many = |part: &str, most: usize| part.repeat((bytes / most).max(3000).min(262_000 / most));
        let sources = [
            format!("{{{{ x{} }}}}", many("|upper", 6)),
            format!("{{{{ x{} }}}}", many(".b", 2)),
            format!("{{{{ x{} }}}}", many("+1", 2)),
            format!("{{{{ 1{} }}}}", many("~x", 2)),
            format!("{{{{ x{} }}}}", many("[0]", 3)),
            format!("{{{{ x{} }}}}", many("()", 2)),
            format!("{{{{ {}x }}}}", many("not ", 4)),
            format!("{{{{ {}x }}}}", many("-", 1)),
            format!("{{{{ x{} }}}}", many(" if y", 5)),
            format!("{{{{ x{} }}}}", many(" is y", 5)),
            format!("{{{{ x{} }}}}", many(" or y", 5)),
            format!("{{% if a %}}{}{{% endif %}}", many("{%elif a%}", 10)),
            format!("{{% filter upper{} %}}{{% endfilter %}}", many("|upper", 6)),
            format!("{{% set x{} = 1 %}}", many(".b", 2)),
            format!("{{% for {}a{} in x %}}{{% endfor %}}", many("(", 4), many(",)", 4)),
            format!("{{% if a %}}{}{}{{% endif %}}", many("{%if a%}", 17), many("{%endif%}", 17)),
            format!("{{{{ {}{} }}}}", many("[", 2), many("]", 2)),
        ];
        for source in sources {
            let start: String = source.chars().take(40).collect();
            match compile(&source) {
                Err(TemplateError::Syntax { .. }) => {}
                Ok(_) => panic!("{start}: taken"),
                Err(error) => panic!("{start}: {error}"),
            }
        }
    }
    assert!(compile(&format!("{{{{ 'a'{} }}}}", "|upper".repeat(500))).is_ok());
    let error = compile(&"a".repeat(300_000)).unwrap_err().to_string();
    assert!(error.contains("at most 262144 bytes"), "{error}");
}

#[test]
fn constants_that_take_for_ever_to_compute_are_refused_when_the_template_is_read() {
    for source in [
        "{{ ([1]*1000000000000) == ([1]*1000000000000) }}",
        "{{ 10**12*[1] < [1]*10**12 }}",
        "{{ 2 in ([1]*1000000*1000000) }}",
        "{{ ([1]+[1])*1000000000 }}",
        "{{ (x or [1])*1000000000 }}",
    ] {
        let error = compile(source).unwrap_err().to_string();
        assert!(error.contains("at most 100000 items"), "{source}: {error}");
    }
    assert_eq!(render("{{ ([0]*3)|join(',') }}").unwrap(), "0,0,0");
}

#[test]
fn values_that_can_not_be_printed_or_compared_are_refused_when_they_are_made() {
    let double = |n: usize, name: &str| {
        format!("{{% set {name} = [1] %}}{}", format!("{{% set {name} = [{name}, {name}] %}}").repeat(n))
    };
    let both = format!("{}{}", double(40, "a"), double(40, "b"));
    let empty = format!("{{% set a = [] %}}{}", "{% set a = a + a %}".repeat(40));
    let sources = [
        "{% set ns = namespace() %}{% set ns.a = ns %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = [ns] %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set ns.a = {'b': ns}.items() %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% set m = namespace(a=ns) %}{% set ns.m = m %}{{ ns }}".to_owned(),
        "{% set ns = namespace() %}{% for m in messages %}{% set ns.a = loop %}{% endfor %}{{ ns }}"
            .to_owned(),
        nested(90_000, "[ns.x]"),
        nested(90_000, "{'a': ns.x}"),
        nested(90_000, "(ns.x,)"),
        nested(90_000, "[ns.x]|list|batch(1)|list"),
        nested(90_000, "dict(a=ns.x)"),
        nested(90_000, "dict(a=ns.x).items()"),
        nested(90_000, "[1, ns.x][1:]"),
        format!("{both}{{{{ a == b }}}}"),
        format!("{both}{{{{ a < b }}}}"),
        format!("{both}{{{{ a in [b] }}}}"),
        format!("{both}{{{{ {{a: 1}} }}}}"),
        format!("{both}{{{{ [a, b]|unique }}}}"),
        format!("{}{{{{ a ~ '' }}}}", double(40, "a")),
        format!("{}{{{{ a|tojson }}}}", double(40, "a")),
        format!("{}{{{{ a|string|length }}}}", double(40, "a")),
        format!("{}{{{{ ','.join(a)|length }}}}", double(40, "a")),
        "{% set x = 'a' * 60000000 %}{{ ([x] * 1000)|string }}".to_owned(),
        "{% set n = 100000000 %}{{ ([1]*n)|tojson }}".to_owned(),
        "{% set n = 100000000 %}{{ ([1]*n)[5:n] == ([1]*n)[5:n] }}".to_owned(),
        format!("{{% set ns = namespace() %}}{{% set a = range(90000)|list %}}{}{{{{ ns ~ '' }}}}", {
            (0..40).map(|i| format!("{{% set ns.a{i} = a %}}")).collect::<String>()
        }),
    ];
    for source in sources {
        let start: String = source.chars().take(90).collect();
        match render(&source) {
            Err(TemplateError::Render { reason, .. }) => assert!(
                reason.contains("expected values of at most")
                    || reason.contains("expected lists and mappings of at most")
                    || reason.contains("part of another value"),
                "{start}: {reason}"
            ),
            other => panic!("{start}: {other:?}"),
        }
    }
    // Doubling an empty list gives an empty list.
    assert_eq!(render(&format!("{empty}{{{{ a }}}}")).unwrap(), "[]");
}

#[test]
fn long_texts_are_refused_before_they_are_written() {
    for source in [
        "{% set x = ('a\n' * 1000000) %}{{ x|indent(1000) }}",
        "{% set x = ('\n' * 1000000) %}{{ x|indent(width=100000000000, blank=true) }}",
        "{% set ns = namespace(x=1) %}{% for i in range(200) %}{% set ns.x = [ns.x] %}{% endfor %}\
         {% set n = 9000 %}{% set a = [ns.x] * n %}{{ a|tojson(indent=16) }}",
        "{{ '{:1000000000000}'.format(1) }}",
        "{{ '{:0>99999}'.format(1) }}",
        "{{ '%1000000000000d'|format(1) }}",
        "{{ 'a' * 100000000000 }}",
        "{% for i in range(100000) %}{% for j in range(100000) %}{{ 'a' * 1000 }}{% endfor %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('', 'aa') %}{% endfor %}",
    ] {
        match render(source) {
            Err(TemplateError::Render { .. }) => {}
            Ok(text) => panic!("{source}: {} bytes", text.len()),
            Err(error) => panic!("{source}: {error}"),
        }
    }
    assert_eq!(render("{{ '{:>6}|{:02}'.format('a', 7) }}").unwrap(), "     a|07");
}

/// Comparisons of large values, as often as the fuel allows.
const SLOW: &str = "{% set a = range(90000)|list %}{% set b = range(90000)|list %}\
    {% set ns = namespace(a=[[a,a],[a,a]], b=[[b,b],[b,b]]) %}\
    {% for i in range(100000) %}{% if ns.a != ns.b %}x{% endif %}{% endfor %}";

#[test]
fn a_template_that_nobody_waits_for_stops() {
    let template = compile(SLOW).unwrap();
    let asked = Cell::new(0);
    let abandoned = || {
        asked.set(asked.get() + 1);
        asked.get() > 2
    };
    let error = template.render_unless(&[], &RenderOptions::default(), &abandoned).unwrap_err();
    assert!(error.to_string().contains("nobody waits"), "{error}");
}

#[test]
fn a_template_has_a_limited_time() {
    let template = compile(SLOW).unwrap();
    let time = Duration::from_millis(50);
    let error = template.render_within(&[], &RenderOptions::default(), &|| false, time).unwrap_err();
    assert!(error.to_string().contains("more than 0.05 s"), "{error}");
}

#[test]
fn line_breaks_are_normalised_as_jinja_does() {
    let unix = "a\n{% if true %}\nb\n{% endif %}\n{{ 'x\ny' }}\n\n";
    for source in [unix.to_owned(), unix.replace('\n', "\r\n"), unix.replace('\n', "\r")] {
        assert_eq!(render(&source).unwrap(), "a\nb\nx\ny\n");
    }
}

/// Programs that the guards must not change.
#[test]
fn guards_change_no_result() {
    for (source, text) in [
        (
            "{% for m in messages if m.role == 'user' %}{{ m.content }}{{ loop.last }}{% else %}no{% endfor %}",
            "hiTrue",
        ),
        ("{% for m in messages if m.role == 'x' %}{{ m.content }}{% else %}no{% endfor %}", "no"),
        (
            "{% for k, v in {'a': 1, 'b': 2}.items() %}{{ k }}{{ v }}{% if not loop.last %},{% endif %}{% endfor %}",
            "a1,b2",
        ),
        (
            "{% macro f(x, y=2) %}[{{ x }}{{ y }}{{ caller() if caller }}]{% endmacro %}{{ f(1) }}{{ f(1, y=3) }}",
            "[12][13]",
        ),
        ("{% macro f(x) %}[{{ caller(x) }}]{% endmacro %}{% call(y) f(5) %}{{ y }}!{% endcall %}", "[5!]"),
        ("{% for a in [[1, [2]], [3]] recursive %}{{ loop(a) if a is iterable else a }}{% endfor %}", "123"),
        (
            "{% set l = [1] + [2, 3] %}{{ l }}{{ l[1:] }}{{ l[::-1]|join }}{{ (1, 2) + (3,) }}",
            "[1, 2, 3][2, 3]321(1, 2, 3)",
        ),
        (
            "{% set x, y = (1, 2) %}{{ 1 < x + y <= 3 }}{{ x not in [2] }}{{ 'a' in {'a': 1} }}",
            "TrueTrueTrue",
        ),
        (
            "{% set ns = namespace(n=0) %}{% for i in range(5) %}{% if i == 3 %}{% continue %}{% endif %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
            "7",
        ),
        ("{% set x %}a{{ 1 }}{% endset %}{% filter upper %}{{ x }}{% endfilter %}", "A1"),
        (
            "{{ messages|selectattr('role', 'equalto', 'user')|map(attribute='content')|list|tojson }}",
            "[\"hi\"]",
        ),
        (
            "{{ (messages[0].role == 'x' and 1) or messages[-1]['content'] }}{{ 'q' if x is defined else 'd' }}",
            "yod",
        ),
        (
            "{% set a = ['b', 'c'] %}{{ dict(x=1, **{'y': a}) }}{{ '%s-%s'|format(*a) }}",
            "{'x': 1, 'y': ['b', 'c']}b-c",
        ),
    ] {
        assert_eq!(render(source).unwrap(), text, "{source}");
    }
}
