//! A post's Markdown as HTML that a page can take in as it is. CPU work: never call it on the event loop.
//!
//! # Guarantees
//! - Nothing in it runs: HTML inside the Markdown comes out as the text that it is, and only links with one of a few schemes
//!   lead anywhere.
//! - Its length is at most [`HTML_BYTES_PER_BYTE`] times that of the Markdown and [`HTML_BYTES_MORE`], and the time grows with that.

use pulldown_cmark::{CowStr, Event, Parser, Tag, html::push_html};

/// The most that a byte becomes: a quote mark, which opens and closes a `<blockquote>` on lines of their own.
pub const HTML_BYTES_PER_BYTE: usize = 28;

/// What any Markdown may have beside that: the targets of references, which the parser repeats up to about this length.
pub const HTML_BYTES_MORE: usize = 128 * 1024;

/// Schemes that lead to a place or a person. Any other may run something: `javascript:`, `data:`, `vbscript:`, what a
/// program on the reader's machine has taken for itself.
const LINK_SCHEMES: [&str; 3] = ["http", "https", "mailto"];

/// Schemes from which a browser may load an image.
const IMAGE_SCHEMES: [&str; 2] = ["http", "https"];

/// `markdown` by the rules of `CommonMark` 0.31, without its extensions.
pub fn to_html(markdown: &str) -> String {
    let mut html = String::with_capacity(2 * markdown.len());
    push_html(&mut html, Parser::new(markdown).map(harmless));
    html
}

fn harmless(event: Event<'_>) -> Event<'_> {
    match event {
        Event::Html(text) | Event::InlineHtml(text) => Event::Text(text),
        Event::Start(Tag::Link { link_type, dest_url, title, id }) => {
            let dest_url = leading_to(&LINK_SCHEMES, dest_url);
            Event::Start(Tag::Link { link_type, dest_url, title, id })
        }
        Event::Start(Tag::Image { link_type, dest_url, title, id }) => {
            let dest_url = leading_to(&IMAGE_SCHEMES, dest_url);
            Event::Start(Tag::Image { link_type, dest_url, title, id })
        }
        event => event,
    }
}

/// The URL, or nothing in its place when its scheme is none of `schemes`. One without a scheme stays within the site.
fn leading_to<'a>(schemes: &[&str], url: CowStr<'a>) -> CowStr<'a> {
    // What is before the first colon is the scheme, unless the path, query or fragment has begun by then. A blank or control character
    // in it, which browsers skip, makes it a scheme that is not known here.
    let scheme = url.find([':', '/', '?', '#']).filter(|at| url[*at..].starts_with(':')).map(|at| &url[..at]);
    let known = scheme.is_none_or(|scheme| schemes.iter().any(|known| scheme.eq_ignore_ascii_case(known)));
    if known { url } else { CowStr::Borrowed("") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn markdown_becomes_html() {
        for (markdown, html) in [
            ("", ""),
            ("# A\n\n*b* **c** `d`", "<h1>A</h1>\n<p><em>b</em> <strong>c</strong> <code>d</code></p>\n"),
            ("- a\n- b", "<ul>\n<li>a</li>\n<li>b</li>\n</ul>\n"),
            ("```rust\n1 < 2\n```", "<pre><code class=\"language-rust\">1 &lt; 2\n</code></pre>\n"),
            ("[a](https://b/?c&d \"e\")", "<p><a href=\"https://b/?c&amp;d\" title=\"e\">a</a></p>\n"),
            ("[a]\n\n[a]: /b", "<p><a href=\"/b\">a</a></p>\n"),
            ("<a@b.example>", "<p><a href=\"mailto:a@b.example\">a@b.example</a></p>\n"),
            ("![a](b.png)", "<p><img src=\"b.png\" alt=\"a\" /></p>\n"),
        ] {
            assert_eq!(to_html(markdown), html, "{markdown:?}");
        }
    }

    #[test]
    fn html_inside_comes_out_as_text() {
        for (markdown, html) in [
            ("<script>alert(1)</script>", "&lt;script&gt;alert(1)&lt;/script&gt;"),
            ("a <b onclick=x>c</b>", "<p>a &lt;b onclick=x&gt;c&lt;/b&gt;</p>\n"),
            ("<!-- a -->\n", "&lt;!-- a --&gt;\n"),
            ("![<b onload=x>](c)", "<p><img src=\"c\" alt=\"&lt;b onload=x&gt;\" /></p>\n"),
            ("&lt;script&gt;", "<p>&lt;script&gt;</p>\n"),
            ("```\"onload=x\n```", "<pre><code class=\"language-&quot;onload=x\"></code></pre>\n"),
        ] {
            assert_eq!(to_html(markdown), html, "{markdown:?}");
        }
    }

    #[test]
    fn links_that_would_run_something_lead_nowhere() {
        for url in [
            "javascript:alert(1)",
            "JavaScript:alert(1)",
            "javascript&colon;alert(1)",
            "&#106;avascript:alert(1)",
            "java&#9;script:alert(1)",
            "&#1;javascript:alert(1)",
            "vbscript:x",
            "data:text/html,x",
            "file:///etc/passwd",
            "\\javascript:x",
            ":x",
        ] {
            for link in [format!("[a]({url})"), format!("[a](<{url}>)"), format!("[a]\n\n[a]: {url}")] {
                assert_eq!(to_html(&link), "<p><a href=\"\">a</a></p>\n", "{link}");
            }
            assert_eq!(to_html(&format!("![a]({url})")), "<p><img src=\"\" alt=\"a\" /></p>\n", "{url}");
        }
        assert_eq!(
            to_html("<javascript:alert(1)>"),
            "<p><a href=\"\">javascript:alert(1)</a></p>\n",
            "a link that is its own text"
        );
        assert_eq!(to_html("![a](mailto:b)"), "<p><img src=\"\" alt=\"a\" /></p>\n");
        for url in ["HTTPS://a", "mailto:a", "/a:b", "?a:b", "#a:b", "a/b:c", "//a", ""] {
            assert_eq!(to_html(&format!("[a]({url})")), format!("<p><a href=\"{url}\">a</a></p>\n"));
        }
    }

    /// Whether `html` has no tags and attributes but those of text, and no links but to known schemes.
    fn runs_nothing(html: &str) -> Result<(), String> {
        const TAGS: [&str; 19] = [
            "p",
            "h1",
            "h2",
            "h3",
            "h4",
            "h5",
            "h6",
            "em",
            "strong",
            "code",
            "pre",
            "ul",
            "ol",
            "li",
            "blockquote",
            "a",
            "img",
            "br",
            "hr",
        ];
        let mut rest = html;
        while let Some((_, after)) = rest.split_once('<') {
            let (tag, after) = after.split_once('>').ok_or("an open tag")?;
            let tag = tag.trim_start_matches('/').trim_end_matches('/').trim_end();
            let (name, mut attributes) = tag.split_once(' ').unwrap_or((tag, ""));
            if !TAGS.contains(&name) {
                return Err(format!("<{tag}>"));
            }
            while !attributes.is_empty() {
                let (name, value) = attributes.split_once("=\"").ok_or("an attribute without quotes")?;
                let (value, others) = value.split_once('"').ok_or("an open quote")?;
                let safe = match name {
                    "title" | "alt" | "class" | "start" => true,
                    "href" | "src" => {
                        let scheme = value.split(['/', '?', '#']).next().unwrap_or_default().split_once(':');
                        scheme.is_none_or(|(scheme, _)| {
                            LINK_SCHEMES.contains(&scheme.to_ascii_lowercase().as_str())
                        })
                    }
                    _ => false,
                };
                if !safe {
                    return Err(format!("{name}={value:?}"));
                }
                attributes = others.trim_start();
            }
            rest = after;
        }
        Ok(())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn no_text_becomes_more_than_text(pieces in prop::collection::vec(
            prop_oneof![
                prop::sample::select(vec![
                    "[", "](", ")", "![", "]: ", "<", ">", "\"", "'", "`", "```", "*", "_", "#", "- ", "1. ", "> ", "\n",
                    "\n\n", "    ", "\\", "&", "&quot;", "&#x6a;", "&colon;", "javascript:", "JAVASCRIPT:", "data:", "https://a",
                    "<script>", "</script>", "<img src=x onerror=y>", "<!--", "-->", "<?", "<![CDATA[", "\" onload=\"", "\u{0}",
                    "\t", "a",
                ]).prop_map(str::to_owned),
                ".{0,4}",
            ],
            0..40,
        )) {
            let markdown = pieces.concat();
            let html = to_html(&markdown);
            prop_assert_eq!(runs_nothing(&html), Ok(()), "{:?}", html);
            prop_assert!(html.len() <= HTML_BYTES_PER_BYTE * markdown.len() + HTML_BYTES_MORE);
        }
    }

    #[test]
    fn the_length_is_bounded_where_it_grows_most() {
        let longest = crate::post::BODY_BYTES_MAX;
        let reference = format!("[a]: /{}\n\n", "u".repeat(1000));
        for (start, repeated) in
            [("", ">"), ("", "\""), ("", "1. "), ("", "> - "), ("", "#\n"), (reference.as_str(), "[a]")]
        {
            let mut markdown = start.to_owned();
            markdown.push_str(&repeated.repeat((longest - start.len()) / repeated.len()));
            let bound = HTML_BYTES_PER_BYTE * markdown.len() + HTML_BYTES_MORE;
            let html = to_html(&markdown);
            assert!(html.len() <= bound, "{repeated:?}: {}", html.len());
        }
    }
}
