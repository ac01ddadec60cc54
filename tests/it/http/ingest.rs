//! Events in and what became of them out.

use serde_json::{Value, json};

use super::client::{request, try_request};
use super::nodes::{ORDER, node_with, token};
use super::{BATCH, STRUCTURED, Served, paid, placed};

#[test]
fn an_event_is_answered_when_it_is_durable_with_what_it_did_and_is_read_back() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let mut event = placed("1", "o-1");
    event["correlationid"] = json!("c-1");
    let answer = node.event(&event).with_status(200).json();
    assert_eq!(answer["outcome"], "admitted");
    assert_eq!(answer["id"], "events:http/0:0");
    assert_eq!(answer["effects"][0]["outcome"], "applied");
    assert_eq!(answer["effects"][0]["version"], 1);
    // What is answered is durable: a kill loses nothing of it.
    node.kill();
    let node = Served::dev(directory.path());
    let entity = node.get("/v1/entities/order/o-1").with_status(200).json();
    assert_eq!(entity["status"], "placed");
    assert_eq!(entity["data"]["total_cents"], 1000);
    let again = node.event(&event).with_status(200).json();
    assert_eq!(again["outcome"], "duplicate");
    let stored = node
        .get("/v1/events/events:http/0:0")
        .with_status(200)
        .json();
    assert_eq!(stored["data"], json!({ "total_cents": 1000 }));
    let rejected = paid("2", "o-2", 5);
    let answer = node.event(&rejected).with_status(200).json();
    assert_eq!(answer["effects"][0]["outcome"], "rejected");
    assert_eq!(node.stop(), Some(0));
}

#[test]
fn r48_of_a_partly_bad_batch_each_item_has_its_result_and_atomic_is_all_or_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let bad = json!({ "specversion": "1.0", "id": "x", "source": "/shop" });
    let batch = json!([placed("1", "o-1"), bad, placed("2", "o-2")]).to_string();
    let refused = node
        .post("/v1/events?atomic=true", BATCH, &batch)
        .with_status(422)
        .json();
    assert_eq!(refused["faults"][0]["at"], "/1/type");
    node.get("/v1/entities/order/o-1").with_status(404);
    let items = node
        .post("/v1/events", BATCH, &batch)
        .with_status(207)
        .json();
    let statuses: Vec<_> = items["items"]
        .as_array()
        .unwrap()
        .iter()
        .map(|item| item["status"].as_u64().unwrap())
        .collect();
    assert_eq!(statuses, [200, 422, 200]);
    node.get("/v1/entities/order/o-2").with_status(200);
}

#[test]
fn one_key_with_other_content_is_a_conflict_and_kept_as_a_dead_letter_to_decide() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let headers = [("content-type", STRUCTURED), ("idempotency-key", "k-1")];
    let first = placed("1", "o-1").to_string();
    node.send("/v1/events", &headers, first.as_bytes())
        .with_status(200);
    // Another id, and still the same effect: the key says so.
    let other_id = placed("2", "o-1").to_string();
    let again = node.send("/v1/events", &headers, other_id.as_bytes());
    assert_eq!(again.with_status(200).json()["outcome"], "duplicate");
    let other = placed("1", "o-9").to_string();
    node.send("/v1/events", &headers, other.as_bytes())
        .with_status(409);
    let letters = node.get("/v1/dead-letters").with_status(200).json();
    let letter = &letters["dead_letters"][0];
    assert_eq!(letter["reason"], "conflict");
    let id = letter["id"].as_str().unwrap();
    let shown = node.get(&format!("/v1/dead-letters/{id}")).json();
    assert!(shown["bytes"].as_str().unwrap().contains("o-9"));
    let target = format!("/v1/dead-letters/{id}/discard");
    let given_up = node.send(&target, &[], b"").with_status(200).json();
    assert_eq!(given_up["result"]["outcome"], "discarded");
    node.send(&target, &[], b"").with_status(409);
    let unknown = "/v1/dead-letters/00000000000000000000000000000000/retry";
    node.send(unknown, &[], b"").with_status(404);
}

#[test]
fn r05_every_stored_event_names_the_credential_that_caused_it_and_a_client_cannot_forge_it() {
    const FORGED: &str = "token:0000000000000000";
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    let (config, first) = node_with(directory);
    let whose = ("acme", "publish:intent,operate", "second");
    let second = token(directory, &config, whose, &[]);
    let node = Served::run(directory, &config, &first, &[]);
    let forged = |event: Value| {
        let mut event = event;
        event["causedby"] = json!(FORGED);
        event
    };
    let send = |token: &str, target: &str, more: &[(&str, &str)], body: &str| {
        let bearer = format!("Bearer {token}");
        let mut headers = vec![("authorization", &*bearer)];
        headers.extend_from_slice(more);
        let answer = request(&node.address, "POST", target, &headers, body.as_bytes());
        answer.with_status(200);
    };
    let one = [("content-type", STRUCTURED)];
    let many = [("content-type", BATCH)];
    let binary = [
        ("content-type", "application/json"),
        ("ce-specversion", "1.0"),
        ("ce-id", "4"),
        ("ce-source", "/shop"),
        ("ce-type", "order.placed"),
        ("ce-subject", "o-4"),
        ("ce-causedby", FORGED),
    ];
    let (orders, wishes) = ("/v1/streams/orders", "/v1/streams/wishes");
    send(
        &first,
        orders,
        &one,
        &forged(placed("1", "o-1")).to_string(),
    );
    let batch = json!([forged(placed("2", "o-2")), paid("3", "o-1", 1000)]);
    send(&first, orders, &many, &batch.to_string());
    // Its data is not what the machine needs: dead, and retried by the other.
    send(&first, orders, &binary, "{}");
    send(
        &second,
        wishes,
        &one,
        &forged(placed("5", "o-5")).to_string(),
    );
    let letters = node.get("/v1/dead-letters").json();
    let letter = letters["dead_letters"][0]["id"].as_str().unwrap();
    send(
        &second,
        &format!("/v1/dead-letters/{letter}/discard"),
        &[],
        "",
    );
    let [first, second] = [&first, &second].map(|token| {
        let id = token.split('_').nth(1).unwrap();
        format!("token:{id}")
    });
    check_caused_by(&node, "orders", (&first, 4), &[&second]);
    check_caused_by(&node, "wishes", (&second, 1), &[]);
}

/// Holds that each event of a stream names `caused_by`, and each decision about a letter who decided.
#[track_caller]
fn check_caused_by(node: &Served, stream: &str, (caused_by, rows): (&str, usize), by: &[&str]) {
    let page = node.get(&format!("/v1/events?stream={stream}")).json();
    let stored = page["events"].as_array().unwrap();
    let (decided, events): (Vec<_>, Vec<_>) =
        stored.iter().partition(|row| row["action"].is_string());
    assert_eq!(events.len(), rows, "{page}");
    let is_named = events.iter().all(|row| row["causedby"] == caused_by);
    assert!(is_named, "{page}");
    let decided: Vec<_> = decided.iter().map(|row| row["by"].as_str()).collect();
    let by: Vec<_> = by.iter().copied().map(Some).collect();
    assert_eq!(decided, by, "{page}");
}

#[test]
fn r27_too_many_events_of_a_tenant_are_429_with_the_time_to_wait_and_another_one_goes_on() {
    let directory = tempfile::tempdir().unwrap();
    let directory = directory.path();
    std::fs::write(directory.join("order.yaml"), ORDER).unwrap();
    let config = "
http: { listen: '127.0.0.1:0', tenant_events_per_second: 5 }
machines: { paths: [order.yaml] }
sources: [{ name: api, kind: http, stream: orders }]
";
    std::fs::write(directory.join("node.yaml"), config).unwrap();
    let scopes = "publish:fact,read,observe";
    let [bolt, acme] = ["bolt", "acme"].map(|tenant| {
        let whose = (tenant, scopes, "all");
        token(directory, "node.yaml", whose, &[])
    });
    let node = Served::run(directory, "node.yaml", &acme, &[]);
    let batch = |from: usize, count: usize| {
        let events = (from..from + count).map(|n| placed(&n.to_string(), &format!("o-{n}")));
        json!(events.collect::<Vec<_>>()).to_string()
    };
    node.post("/v1/events", BATCH, &batch(0, 5))
        .with_status(200);
    // The same second, or a slow machine's next one: one of some requests is refused, and as a whole.
    let (n, refused) = (1..100)
        .map(|n| (n, node.post("/v1/events", BATCH, &batch(5 * n, 5))))
        .find(|(_, answer)| answer.status != 200)
        .unwrap();
    let refused = refused.with_status(429);
    node.get(&format!("/v1/entities/order/o-{}", 5 * n))
        .with_status(404);
    let bearer = format!("Bearer {bolt}");
    let headers = [("authorization", &*bearer), ("content-type", BATCH)];
    let body = batch(0, 5);
    request(
        &node.address,
        "POST",
        "/v1/events",
        &headers,
        body.as_bytes(),
    )
    .with_status(200);
    // After the time that was said it is taken.
    let seconds: u64 = refused.header("retry-after").unwrap().parse().unwrap();
    super::pause(seconds * 1_000);
    node.post("/v1/events", BATCH, &batch(5 * n, 5))
        .with_status(200);
    // More than a second's worth at once is never taken, whatever one waits.
    let never = node.post("/v1/events", BATCH, &batch(1_000, 6));
    never.with_status(413);
}

#[test]
fn a_log_is_read_in_pages_and_a_trace_shows_what_caused_what() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    for n in 0..5 {
        let mut event = placed(&format!("e{n}"), &format!("o-{n}"));
        event["correlationid"] = json!("c-1");
        if n > 0 {
            event["causationid"] = json!(format!("e{}", (n - 1) / 2));
        }
        node.event(&event).with_status(200);
    }
    let mut seen = Vec::new();
    let mut after = String::new();
    loop {
        let page = node
            .get(&format!("/v1/events?stream=events&limit=2{after}"))
            .json();
        let events = page["events"].as_array().unwrap();
        seen.extend(
            events
                .iter()
                .map(|event| event["id"].as_str().unwrap().to_owned()),
        );
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ["e0", "e1", "e2", "e3", "e4"]);
    // The index follows the log: off the hot path, so a moment later.
    let trace = (0..200).find_map(|_| {
        super::pause(500);
        let trace = node.get("/v1/trace/c-1");
        (trace.status == 200 && trace.json()["events"] == 5).then(|| trace.json())
    });
    let root = &trace.expect("the index is behind")["roots"][0];
    assert_eq!(root["id"], "e0");
    assert_eq!(root["caused"][0]["id"], "e1");
    assert_eq!(root["caused"][0]["caused"][0]["id"], "e3");
}

#[test]
fn a_users_own_json_becomes_events_through_the_mapping_of_its_stream() {
    let directory = tempfile::tempdir().unwrap();
    let node = super::nodes::with_mapping(directory.path());
    let headers = [
        ("content-type", "application/x-ndjson"),
        ("x-shop", "/berlin"),
    ];
    let lines = "{\"order\":\"o-1\",\"kind\":\"placed\",\"total_cents\":1000}\n\
                 {\"kind\":\"placed\"}\n";
    let items = node
        .send("/v1/streams/orders", &headers, lines.as_bytes())
        .with_status(207)
        .json();
    assert_eq!(items["items"][0]["effects"][0]["outcome"], "applied");
    assert_eq!(items["items"][1]["status"], 422);
    let stored = node.get("/v1/events?stream=orders").json();
    assert_eq!(stored["events"][0]["source"], "/berlin");
    assert_eq!(stored["events"][0]["type"], "order.placed");
}

#[test]
fn what_is_no_json_and_what_means_nothing_to_the_engine_is_read_back_as_it_was_sent() {
    let directory = tempfile::tempdir().unwrap();
    let node = Served::dev(directory.path());
    let headers = [
        ("content-type", "image/png"),
        ("ce-specversion", "1.0"),
        ("ce-id", "picture"),
        ("ce-source", "/camera"),
        ("ce-type", "picture.taken"),
        ("ce-dataschema", "urn:picture"),
        ("ce-exposure", "12"),
        ("idempotency-key", "once"),
    ];
    let taken = node.send("/v1/events", &headers, b"abc").with_status(200);
    let position = taken.json()["id"].as_str().unwrap().to_owned();
    let one = node.get(&format!("/v1/events/{position}"));
    let page = node.get("/v1/events?stream=events").with_status(200).json();
    for stored in [one.with_status(200).json(), page["events"][0].clone()] {
        assert_eq!(stored["data_base64"], "YWJj", "{stored}");
        assert_eq!(stored["datacontenttype"], "image/png");
        assert_eq!(stored["dataschema"], "urn:picture");
        assert_eq!(stored["idempotencykey"], "once");
        assert_eq!(stored["extensions"]["exposure"], "12");
    }
    // The same address without its body, for probes and caches.
    for target in ["/livez", "/v1/events?stream=events"] {
        let bearer = format!("Bearer {}", node.token);
        let headers = [("authorization", &*bearer)];
        let head = try_request(&node.address, "HEAD", target, &headers, b"").unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0), "{target}");
    }
}
