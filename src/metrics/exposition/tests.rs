use proptest::prelude::*;

use super::*;

fn pick(metric: &str, labels: &[(&str, &str)]) -> Pick {
    Pick { metric: metric.into(), labels: labels.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect() }
}

fn page(text: &str, picks: &[Pick]) -> Page {
    let mut reader = Reader::new(picks);
    reader.feed(text.as_bytes());
    let whole = reader.finish();
    // however the network cuts it
    for step in [1, 3, 7] {
        let mut reader = Reader::new(picks);
        text.as_bytes().chunks(step).for_each(|piece| reader.feed(piece));
        assert_eq!(format!("{:?}", reader.finish()), format!("{whole:?}"), "in pieces of {step}");
    }
    whole
}

fn value(text: &str, metric: &str, labels: &[(&str, &str)]) -> Result<f64, String> {
    page(text, &[pick(metric, labels)]).values.remove(0).map_err(|e| e.to_string())
}

/// A page as the official Go client writes it, shortened.
const GO: &str = r#"# HELP go_goroutines Number of goroutines that currently exist.
# TYPE go_goroutines gauge
go_goroutines 8
go_gc_duration_seconds{quantile="0.25"} 2.3e-05
go_info{version="go1.27.3"} 1
# TYPE go_memstats_alloc_bytes_total counter
go_memstats_alloc_bytes_total 9.5e+06
go_memstats_heap_alloc_bytes 3.1e+06
go_memstats_heap_idle_bytes 4e+06
go_memstats_heap_inuse_bytes 4.2e+06
go_memstats_heap_released_bytes 3e+06
go_memstats_stack_inuse_bytes 655360
process_resident_memory_bytes 1.5728640e+07
process_start_time_seconds 1.79542161625e+09
http_requests_total{code="200",path="/a}b,c"} 7 1795421616000
"#;

#[test]
fn a_page_of_the_go_client_gives_rss_start_and_memstats() {
    let page = page(GO, &[pick("process_resident_memory_bytes", &[])]);
    assert_eq!(page.values, [Ok(15_728_640.0)]);
    assert_eq!(page.started.and_then(crate::metrics::start_time), Some(1_795_421_616_250));
    let go = page.go.unwrap();
    assert_eq!((go.heap_alloc, go.heap_inuse, go.stack_inuse, go.total_alloc), (3_100_000, 4_200_000, 655_360, 9_500_000));
}

#[test]
fn open_metrics_has_exemplars_units_and_an_end() {
    let text = "# TYPE rss gauge\n# UNIT rss bytes\nrss{job=\"a\"} 5 1795421616.5 # {trace_id=\"x } y\"} 1 2\n# EOF\nrss{job=\"b\"} 9\n";
    assert_eq!(value(text, "rss", &[]), Ok(5.0), "what follows the end is not the page's");
    assert_eq!(value("rss 4 # {} 1\n", "rss", &[]), Ok(4.0));
}

#[test]
fn the_series_with_the_wanted_labels_is_picked() {
    let text = "rss{job=\"shop\",pod=\"a\"} 1\nrss{pod=\"b\", job=\"shop\",} 2\nrss { job = \"cart\" , pod = \"a\" }\t3\nrss 4\n";
    assert_eq!(value(text, "rss", &[("job", "shop"), ("pod", "b")]), Ok(2.0));
    assert_eq!(value(text, "rss", &[("job", "cart")]), Ok(3.0));
    assert_eq!(value(text, "rss", &[("job", "")]), Ok(4.0), "an empty label is an absent one");
    assert_eq!(value(text, "rss", &[("job", "shop")]).unwrap_err(), "2 series of rss fit: add to `labels` what tells them apart");
    assert_eq!(value(text, "rss", &[("pod", "z")]).unwrap_err(), "none of the 4 series of rss has the labels {pod=\"z\"}");
}

#[test]
fn names_may_hold_colons_and_in_quotes_anything() {
    assert_eq!(value("job:rss:sum{a=\"1\"} 7\n", "job:rss:sum", &[]), Ok(7.0));
    assert_eq!(value("{\"résident.memory\",\"host name\"=\"h\"} 8\n", "résident.memory", &[("host name", "h")]), Ok(8.0));
    assert_eq!(value("{ \"a\\\"b\" } 8\n", "a\"b", &[]), Ok(8.0));
    assert_eq!(value("{\"label\"=\"first\",\"rss\"} 8\n", "rss", &[("label", "first")]), Ok(8.0));
}

#[test]
fn a_label_value_may_hold_what_elsewhere_ends_it() {
    for (written, meant) in
        [("a}b", "a}b"), ("a,b=", "a,b="), (r#"a\"b"#, "a\"b"), (r"a\\", "a\\"), (r"a\nb", "a\nb"), (r"\d", r"\d"), ("# x", "# x")]
    {
        let text = format!("rss{{x=\"{written}\",y=\"2\"}} 3\n");
        assert_eq!(value(&text, "rss", &[("x", meant), ("y", "2")]), Ok(3.0), "{written}");
    }
}

#[test]
fn numbers_are_what_go_writes() {
    for (written, value_of) in [("1.5e+09", 1.5e9), ("+Inf", f64::INFINITY), ("-Inf", f64::NEG_INFINITY), ("-3", -3.0), ("1e3 123", 1000.0)]
    {
        assert_eq!(value(&format!("rss {written}\n"), "rss", &[]), Ok(value_of));
    }
    assert!(value("rss NaN\n", "rss", &[]).unwrap().is_nan());
}

#[test]
fn why_there_is_no_value_is_said() {
    for (text, why) in [
        ("", "the page is empty"),
        ("\n \n", "the page is empty"),
        ("<!doctype html>\n<title>Sign in</title>\n", "the answer is a web page, not metrics: is it the right URL?"),
        ("# nothing\nother 1\nrss_total 2\n", "the page has no rss"),
        ("rss\n", "line 1, of rss, cannot be read: it has no value"),
        ("x 1\nrss one\n", "line 2, of rss, cannot be read: its value is no number"),
        ("rss 1 2 3\n", "line 1, of rss, cannot be read: something follows its value that is no timestamp"),
        ("rss 1 x\n", "line 1, of rss, cannot be read: something follows its value that is no timestamp"),
        ("rss{a=\"1} 1\n", "line 1, of rss, cannot be read: a label's value is not in quotes, or they are not closed"),
        ("rss{a=1} 1\n", "line 1, of rss, cannot be read: a label's value is not in quotes, or they are not closed"),
        (
            "rss{a=\"1\" b=\"2\"} 1\n",
            "line 1, of rss, cannot be read: its labels are not separated by commas, or the braces are not closed",
        ),
        ("rss{,} 1\n", "line 1, of rss, cannot be read: a label has no name, or the braces are not closed"),
        ("rss 1\nrss 1\n", "2 series of rss fit: add to `labels` what tells them apart"),
        ("rss 15", "line 1, of rss, cannot be read: the page ends in the middle of it"),
    ] {
        assert_eq!(value(text, "rss", &[]).unwrap_err(), why, "{text:?}");
    }
    assert!(Absent::NoMetric { metric: "rss".into() }.is_vanished() && !Absent::EmptyPage.is_vanished());
}

#[test]
fn a_line_without_end_costs_bounded_memory() {
    let picks = [pick("rss", &[])];
    let mut reader = Reader::new(&picks);
    reader.feed(b"rss{x=\"");
    for _ in 0..1_000 {
        reader.feed(&[b'y'; 4096]);
    }
    assert!(reader.open.capacity() <= 2 * MAX_LINE, "{}", reader.open.capacity());
    reader.feed(b"\"} 1\n");
    assert_eq!(reader.finish().values[0].as_ref().unwrap_err().to_string(), "line 1, of rss, cannot be read: it is too long");
}

#[test]
fn what_is_wrong_with_other_metrics_does_not_matter() {
    let text = "other{ 1\n}{\n\u{0}\nrss 5\n{\"\n= =\nrss2{x=} 1\n";
    assert_eq!(value(text, "rss", &[]), Ok(5.0));
}

fn written(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

proptest! {
    #[test]
    fn any_page_is_read_without_panic(
        text in r#"(rss|process_start_time_seconds|go_memstats_heap_alloc_bytes|[a-z:]{0,3}|[{}=",\\# \t\n]|[0-9.eE+-]{0,4}|NaN|\PC){0,40}"#
    ) {
        page(&text, &[pick("rss", &[("a", "b")]), pick("", &[])]);
    }

    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let picks = [pick("a", &[])];
        let mut reader = Reader::new(&picks);
        reader.feed(&bytes);
        reader.finish();
    }

    #[test]
    fn escaped_labels_come_back_as_they_were(
        name in "[a-zA-Z_:][a-zA-Z0-9_:]{0,8}", label in "[a-zA-Z_][a-zA-Z0-9_]{0,5}", text in "(\\PC|[\"\\\\\n{},=# ]){1,20}", n in any::<u32>()
    ) {
        let line = format!("{name}{{first=\"\",{label}=\"{}\"}} {n}\n", written(&text));
        prop_assert_eq!(value(&line, &name, &[(&label, &text)]), Ok(f64::from(n)));
        let quoted = format!("{{\"{name}\",\"{label}\"=\"{}\"}} {n}\n", written(&text));
        prop_assert_eq!(value(&quoted, &name, &[(&label, &text)]), Ok(f64::from(n)));
        // and as memtrap writes them itself
        let mut labels = String::new();
        crate::metrics::canonical([(label.as_str(), text.as_str())], &mut labels);
        prop_assert_eq!(value(&format!("{name}{labels} {n}\n"), &name, &[(&label, &text)]), Ok(f64::from(n)));
    }
}
