//! Talks with proxies of every kind, line by line.

use super::*;
use crate::means::Means;

const DIGEST: &str = r#"Digest realm="r", nonce="n1", qop="auth", algorithm=SHA-256"#;
const STALE: &str = r#"Digest realm="r", nonce="n2", qop="auth", algorithm=SHA-256, stale=true"#;

fn at(seconds: u64) -> Instant {
    Instant::from_millis(0) + Duration::from_secs(seconds)
}

fn means() -> Means {
    Means { user: b"ann".to_vec(), password: b"secret".to_vec(), ..Means::default() }
}

fn memory() -> Memory {
    Memory::new(means())
}

fn fields(name: &str, values: &[&str]) -> Fields {
    let lines: String = values.iter().map(|value| format!("{name}: {value}\r\n")).collect();
    Fields::parse(format!("HTTP/1.1 200 OK\r\n{lines}\r\n").as_bytes())
}

/// One connect's talk with a proxy; `now` is in seconds.
struct Talk<'a> {
    exchange: Exchange,
    memory: &'a mut Memory,
    now: u64,
}

impl Talk<'_> {
    fn begin(memory: &mut Memory, now: u64) -> (Talk<'_>, Step) {
        Talk::to("192.0.2.1:443", memory, now)
    }

    fn to<'a>(target: &str, memory: &'a mut Memory, now: u64) -> (Talk<'a>, Step) {
        let mut exchange = Exchange::new(target.to_owned());
        let step = exchange.open(memory, at(now));
        (Talk { exchange, memory, now }, step)
    }

    fn challenged(&mut self, values: &[&str]) -> Step {
        let fields = fields("Proxy-Authenticate", values);
        self.exchange.challenged(&fields, true, self.memory, at(self.now))
    }

    fn token(&mut self, answer: &str) -> Step {
        self.exchange.token(Answer::parse(answer.as_bytes()), self.memory, at(self.now))
    }

    fn granted(&mut self) -> Step {
        self.exchange.granted(&Fields::default(), self.memory)
    }

    fn refused(&mut self) -> Step {
        self.exchange.refused(self.memory, at(self.now))
    }
}

fn bare() -> Step {
    Step::Ask(Vec::new())
}

/// What is said, up to the first space or, for Digest, with nonce and count.
fn said(step: &Step) -> String {
    let Step::Ask(value) = step else { panic!("{step:?}") };
    let value = std::str::from_utf8(value).unwrap();
    if !value.starts_with("Digest") {
        return value.to_owned();
    }
    let parsed = challenge::parse([value.as_bytes()].into_iter());
    let field = |name| std::str::from_utf8(parsed[0].parameter(name).unwrap()).unwrap().to_owned();
    format!("Digest {} {}", field("nonce"), field("nc"))
}

fn wish(step: &Step) -> (Scheme, u64, &str) {
    let Step::Fetch(wish) = step else { panic!("{step:?}") };
    (wish.scheme, wish.context, &wish.challenge)
}

fn why(step: &Step) -> String {
    let Step::Refuse(why) = step else { panic!("{step:?}") };
    why.to_string()
}

const BASIC: &str = "Basic YW5uOnNlY3JldA==";

#[test]
fn nothing_is_shown_before_a_challenge_and_then_at_once_to_a_proxy_that_wanted_it() {
    let mut memory = memory();
    let (mut talk, first) = Talk::begin(&mut memory, 0);
    assert_eq!(first, bare());
    assert_eq!(said(&talk.challenged(&["Basic realm=\"x\""])), BASIC);
    assert_eq!(talk.granted(), Step::Granted);
    let (_, later) = Talk::begin(&mut memory, 1);
    assert_eq!(said(&later), BASIC);
}

#[test]
fn proxy_that_wants_nothing_is_shown_nothing() {
    let mut memory = memory();
    for now in 0..3 {
        let (mut talk, first) = Talk::begin(&mut memory, now);
        assert_eq!((first, talk.granted()), (bare(), Step::Granted));
    }
}

#[test]
fn basic_is_shown_before_a_challenge_only_where_that_was_asked_for() {
    let mut memory = Memory::new(Means { preemptive: true, ..means() });
    let (mut talk, first) = Talk::begin(&mut memory, 0);
    assert_eq!(said(&first), BASIC);
    assert_eq!(said(&talk.challenged(&["Basic", DIGEST])), "Digest n1 00000001", "what is stronger may still do");
    let mut without = Memory::new(Means { preemptive: true, ..Means::default() });
    assert_eq!(Talk::begin(&mut without, 0).1, bare());
    let mut forbidden = Memory::new(Means { preemptive: true, allowed: vec![Scheme::Digest], ..means() });
    assert_eq!(Talk::begin(&mut forbidden, 0).1, bare());
}

#[test]
fn the_same_basic_is_not_shown_twice() {
    let mut memory = Memory::new(Means { preemptive: true, ..means() });
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    assert!(why(&talk.challenged(&["Basic"])).contains("refuses the user or the password"));
    assert!(why(&Talk::begin(&mut memory, 1).1).contains("a while ago"));
}

#[test]
fn wrong_credentials_are_shown_once_and_then_not_for_a_while() {
    for offer in ["Basic", DIGEST] {
        let mut memory = memory();
        let (mut talk, _) = Talk::begin(&mut memory, 0);
        talk.challenged(&[offer]);
        assert!(why(&talk.challenged(&[offer])).ends_with("not asked with them for 5 minutes"));
        assert!(matches!(Talk::begin(&mut memory, 299).1, Step::Refuse(Why::Resting)));
        let (mut talk, first) = Talk::to("192.0.2.2:443", &mut memory, 300);
        assert_eq!(first, bare());
        assert!(matches!(talk.challenged(&[offer]), Step::Ask(_)));
        let (mut second, first) = Talk::to("192.0.2.3:443", &mut memory, 301);
        assert!(first == Step::Refuse(Why::Resting) || second.challenged(&[offer]) == Step::Refuse(Why::Resting));
    }
}

#[test]
fn digest_is_counted_and_its_nonce_kept() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    assert_eq!(said(&talk.challenged(&[DIGEST])), "Digest n1 00000001");
    talk.granted();
    assert_eq!(said(&Talk::begin(&mut memory, 1).1), "Digest n1 00000002");
    assert_eq!(said(&Talk::begin(&mut memory, 2).1), "Digest n1 00000003");
}

#[test]
fn stale_nonce_is_answered_anew_and_is_no_wrong_password() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&[DIGEST]);
    talk.granted();
    let (mut talk, _) = Talk::begin(&mut memory, 1);
    assert_eq!(said(&talk.challenged(&[STALE])), "Digest n2 00000001");
    assert_eq!(said(&talk.challenged(&[STALE])), "Digest n2 00000001", "even at once");
    talk.granted();
    assert_eq!(said(&Talk::begin(&mut memory, 2).1), "Digest n2 00000002");
}

#[test]
fn proxy_that_has_forgotten_its_nonce_is_answered_once_more() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&[DIGEST]);
    talk.granted();
    let (mut talk, _) = Talk::begin(&mut memory, 1);
    assert_eq!(said(&talk.challenged(&[&DIGEST.replace("n1", "n3")])), "Digest n3 00000001");
    assert!(why(&talk.challenged(&[&DIGEST.replace("n1", "n4")])).contains("refuses the user"));
}

#[test]
fn next_nonce_takes_the_place_of_the_one_that_was_answered() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&[DIGEST]);
    let info = fields("Proxy-Authentication-Info", &["qop=auth, nextnonce=\"n9\", rspauth=\"x\""]);
    assert_eq!(talk.exchange.granted(&info, talk.memory), Step::Granted);
    assert_eq!(said(&Talk::begin(&mut memory, 1).1), "Digest n9 00000001");
    let (mut late, second) = Talk::begin(&mut memory, 1);
    assert_eq!(said(&second), "Digest n9 00000002");
    late.exchange.granted(&info, late.memory);
    assert_eq!(said(&Talk::begin(&mut memory, 2).1), "Digest n9 00000001");
}

#[test]
fn endless_stale_nonces_come_to_an_end() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    let last = (0..20).map(|_| talk.challenged(&[STALE])).find(|step| !matches!(step, Step::Ask(_)));
    assert!(why(&last.unwrap()).contains("again and again"));
}

#[test]
fn ntlm_takes_two_legs_on_one_connection() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    let step = talk.challenged(&["NTLM"]);
    assert_eq!(wish(&step), (Scheme::Ntlm, wish(&step).1, ""));
    assert_eq!(said(&talk.token("token T1==")), "NTLM T1==");
    assert!(!talk.exchange.is_pinned());
    let second = talk.challenged(&["NTLM T2=="]);
    assert_eq!(wish(&second), (Scheme::Ntlm, wish(&step).1, "T2=="));
    assert_eq!(said(&talk.token("token T3==")), "NTLM T3==");
    assert!(talk.exchange.is_pinned());
    assert_eq!(talk.granted(), Step::Granted);
    let (mut later, first) = Talk::begin(&mut memory, 1);
    assert_ne!(wish(&first).1, wish(&step).1);
    assert_eq!(said(&later.token("token T1==")), "NTLM T1==", "without a round for nothing");
    assert_eq!(wish(&later.challenged(&["NTLM T4=="])).2, "T4==");
}

#[test]
fn ntlm_that_is_refused_is_a_wrong_password() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&["NTLM"]);
    talk.token("token T1==");
    talk.challenged(&["NTLM T2=="]);
    talk.token("token T3==");
    assert!(why(&talk.challenged(&["NTLM", "Basic"])).contains("refuses the user"));
}

#[test]
fn connection_that_ends_in_the_middle_of_ntlm_is_told_of() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&["NTLM"]);
    talk.token("token T1==");
    let challenge = fields("Proxy-Authenticate", &["NTLM T2=="]);
    let step = talk.exchange.challenged(&challenge, false, talk.memory, at(0));
    assert!(why(&step).contains("in the middle of NTLM"));
}

#[test]
fn ticket_is_shown_and_the_proxy_proves_itself() {
    let mut memory = Memory::new(Means::default());
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    assert_eq!(wish(&talk.challenged(&["Basic", "Negotiate"])).0, Scheme::Negotiate);
    assert_eq!(said(&talk.token("token YII=")), "Negotiate YII=");
    let proof = fields("Proxy-Authenticate", &["Negotiate oYG="]);
    assert_eq!(wish(&talk.exchange.granted(&proof, talk.memory)).2, "oYG=");
    assert_eq!(talk.token("done"), Step::Granted);
    let (mut talk, first) = Talk::begin(&mut memory, 1);
    assert_eq!(wish(&first).2, "", "later ones at once, each with a token of its own");
    talk.token("token YIJ=");
    talk.exchange.granted(&proof, talk.memory);
    assert!(why(&talk.token("wrong bad checksum")).contains("cannot prove who it is: bad checksum"));
}

#[test]
fn without_a_ticket_the_next_best_is_taken_and_the_ticket_not_asked_for_again_soon() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&["Negotiate", DIGEST, "Basic"]);
    assert_eq!(said(&talk.token("missing no ticket: run kinit")), "Digest n1 00000001");
    let (mut talk, _) = Talk::to("a:1", &mut memory, 59);
    assert_eq!(said(&talk.challenged(&["Negotiate", DIGEST])), "Digest n1 00000001");
    let (mut talk, _) = Talk::to("b:1", &mut memory, 60);
    assert_eq!(wish(&talk.challenged(&["Negotiate", DIGEST])).0, Scheme::Negotiate);
}

#[test]
fn ticket_that_has_run_out_leads_back_to_the_beginning() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&["Negotiate", "Basic"]);
    talk.token("token YII=");
    talk.granted();
    let (mut talk, _) = Talk::begin(&mut memory, 1);
    assert_eq!(talk.token("missing the ticket has run out"), bare());
    assert_eq!(said(&talk.challenged(&["Negotiate", "Basic"])), BASIC);
}

#[test]
fn ticket_that_the_proxy_does_not_take_is_no_wrong_password() {
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    talk.challenged(&["Negotiate", "Basic"]);
    talk.token("token YII=");
    assert_eq!(said(&talk.challenged(&["Negotiate", "Basic"])), BASIC);
    assert_eq!(talk.granted(), Step::Granted);
}

#[test]
fn what_cannot_be_satisfied_says_what_is_wanted_and_what_to_do() {
    let none = &mut Memory::new(Means::default());
    let (mut talk, _) = Talk::begin(none, 0);
    let text = why(&talk.challenged(&["Basic realm=x, NTLM", "Bearer\x1b"]));
    assert_eq!(text, "wants credentials by Basic, NTLM, bearer: give --proxy-user and --proxy-password-file");
    talk.challenged(&["Negotiate"]);
    assert!(
        why(&talk.token("missing no ticket: run kinit")).ends_with("by Negotiate (Negotiate: no ticket: run kinit)")
    );
    let (mut talk, _) = Talk::begin(none, 0);
    assert!(why(&talk.challenged(&[])).starts_with("wants credentials by nothing"));
    let mut memory = memory();
    let (mut talk, _) = Talk::begin(&mut memory, 0);
    assert!(why(&talk.challenged(&["Bearer"])).contains("see --proxy-auth"));
}

#[test]
fn destination_that_a_known_user_may_not_go_to_does_not_stop_the_others() {
    let mut memory = memory();
    let (mut talk, _) = Talk::to("a:1", &mut memory, 0);
    talk.challenged(&["Basic"]);
    talk.granted();
    let (mut talk, first) = Talk::to("forbidden:1", &mut memory, 1);
    assert_eq!(said(&first), BASIC);
    assert_eq!(why(&talk.challenged(&["Basic"])), "refuses the user or the password");
    let (mut talk, first) = Talk::to("b:1", &mut memory, 2);
    assert_eq!(first, bare(), "until the proxy is known to like them");
    assert_eq!(said(&talk.challenged(&["Basic"])), BASIC);
    talk.granted();
    assert_eq!(said(&Talk::to("c:1", &mut memory, 3).1), BASIC);
}

#[test]
fn changed_password_is_shown_a_few_times_only_even_where_some_destinations_are_free() {
    let mut memory = memory();
    let (mut talk, _) = Talk::to("a:1", &mut memory, 0);
    talk.challenged(&["Basic"]);
    talk.granted();
    let mut shown = 0;
    for second in 1..1800 {
        let (mut talk, first) = Talk::to(&format!("host-{second}:1"), &mut memory, second);
        if second % 2 == 0 {
            talk.granted(); // a destination that is free for all
            continue;
        }
        let step = if first == bare() { talk.challenged(&["Basic"]) } else { first };
        if matches!(step, Step::Ask(_)) {
            shown += 1;
            talk.refused();
        }
    }
    assert_eq!(shown, 4);
}

#[test]
fn answer_to_what_was_shown_unasked_proves_nothing_after_a_refusal() {
    let mut memory = memory();
    let (mut talk, _) = Talk::to("a:1", &mut memory, 0);
    talk.challenged(&["Basic"]);
    talk.granted();
    let under_way: Vec<Exchange> = (0..3).map(|_| Talk::to("free:1", &mut memory, 1).0.exchange).collect();
    for (mut exchange, target) in under_way.into_iter().zip(["b:1", "c:1", "d:1"]) {
        let (mut talk, first) = Talk::to(target, &mut memory, 1);
        if first == bare() {
            talk.challenged(&["Basic"]);
        }
        talk.refused();
        exchange.granted(&Fields::default(), &mut memory);
    }
    assert_eq!(Talk::to("e:1", &mut memory, 2).1, Step::Refuse(Why::Resting));
}
