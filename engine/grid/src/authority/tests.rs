use std::os::unix::fs::PermissionsExt;

use rustls::pki_types::ServerName as PeerName;
use rustls::pki_types::pem::PemObject;
use rustls::{ClientConfig, ClientConnection, RootCertStore, ServerConnection};

use super::*;

const GRID: GridId = GridId([3; 16]);
const NOW: Timestamp = Timestamp(1_795_000_000_000);

fn subject(names: &[&str]) -> Subject {
    Subject {
        grid: GRID,
        id: ServerId(2),
        server: "alpha".parse().unwrap(),
        names: names.iter().map(|n| (*n).to_owned()).collect(),
    }
}

/// The grid's key, kept in `dir`.
fn key(dir: &Path) -> GridKey {
    GridKey::open(dir).unwrap_or_else(|_| GridKey::create(dir).unwrap())
}

/// Shakes hands in memory, without a clock of its own: time is the verifier's, fixed at `now`.
fn handshake(identity: &Identity, peer: &str, now: Timestamp) -> Result<(), rustls::Error> {
    let tls = identity.tls(&["h2", "http/1.1"]).unwrap();
    shake(tls, identity.ca_pem(), peer, now)
}

fn shake(
    tls: Arc<ServerConfig>,
    ca_pem: &str,
    peer: &str,
    now: Timestamp,
) -> Result<(), rustls::Error> {
    #[derive(Debug)]
    struct Fixed(Timestamp);
    impl rustls::time_provider::TimeProvider for Fixed {
        fn current_time(&self) -> Option<rustls::pki_types::UnixTime> {
            let since = std::time::Duration::from_millis(self.0.0);
            Some(rustls::pki_types::UnixTime::since_unix_epoch(since))
        }
    }
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(ca_pem.as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut client = ClientConfig::builder_with_details(provider, Arc::new(Fixed(now)))
        .with_safe_default_protocol_versions()?
        .with_root_certificates(roots)
        .with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let peer = PeerName::try_from(peer.to_owned()).unwrap();
    let mut client = ClientConnection::new(Arc::new(client), peer)?;
    let mut server = ServerConnection::new(tls)?;
    while client.is_handshaking() || server.is_handshaking() {
        let mut wire = Vec::new();
        client.write_tls(&mut wire).unwrap();
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets()?;
        let mut wire = Vec::new();
        server.write_tls(&mut wire).unwrap();
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets()?;
    }
    assert_eq!(
        client.protocol_version(),
        Some(rustls::ProtocolVersion::TLSv1_3)
    );
    assert_eq!(client.alpn_protocol(), Some(b"h2".as_slice()));
    Ok(())
}

#[test]
fn a_client_that_knows_the_authority_trusts_the_server_under_all_its_names() {
    let dir = tempfile::tempdir().unwrap();
    let subject = subject(&["desk.school.example", "10.0.0.4", "0.0.0.0"]);
    let identity = Identity::found(dir.path(), &subject, NOW, &key(dir.path())).unwrap();
    for name in [
        "localhost",
        "127.0.0.1",
        "::1",
        "alpha",
        "desk.school.example",
        "10.0.0.4",
    ] {
        handshake(&identity, name, NOW).unwrap();
    }
    assert!(handshake(&identity, "elsewhere.example", NOW).is_err());
    assert!(handshake(&identity, "localhost", NOW.after(Span::hours(91 * DAY))).is_err());

    let stranger = tempfile::tempdir().unwrap();
    let mut stranger =
        Identity::found(stranger.path(), &subject, NOW, &key(stranger.path())).unwrap();
    stranger.ca_pem = identity.ca_pem;
    assert!(handshake(&stranger, "localhost", NOW).is_err());
    for (name, mode) in [(CA_KEY, 0o600), (KEY, 0o600)] {
        let found = fs::metadata(dir.path().join(name)).unwrap().permissions();
        assert_eq!(found.mode() & 0o777, mode, "{name}");
    }
}

#[test]
fn a_certificate_is_kept_until_a_third_of_its_life_is_left() {
    let dir = tempfile::tempdir().unwrap();
    let first = Identity::found(dir.path(), &subject(&[]), NOW, &key(dir.path())).unwrap();
    let open = |days: u64| {
        Identity::open(
            dir.path(),
            &subject(&[]),
            NOW.after(Span::hours(days * DAY)),
            Some(&key(dir.path())),
        )
        .unwrap()
    };
    let kept = open(59);
    assert!(!kept.renewed());
    assert_eq!(kept.chain, first.chain);
    let renewed = open(61);
    assert!(renewed.renewed());
    assert_eq!(renewed.ca_fingerprint(), first.ca_fingerprint());
    assert_eq!(renewed.expires(), NOW.after(Span::hours(151 * DAY)));
    handshake(&renewed, "localhost", NOW.after(Span::hours(120 * DAY))).unwrap();
    assert!(!open(62).renewed());
}

#[test]
fn new_names_and_damage_give_a_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    Identity::found(dir.path(), &subject(&[]), NOW, &key(dir.path())).unwrap();
    let wider = subject(&["desk.example"]);
    assert!(
        Identity::open(dir.path(), &wider, NOW, Some(&key(dir.path())))
            .unwrap()
            .renewed()
    );
    assert!(
        !Identity::open(dir.path(), &wider, NOW, Some(&key(dir.path())))
            .unwrap()
            .renewed()
    );
    fs::write(dir.path().join(CERTIFICATE), "what?").unwrap();
    assert!(
        Identity::open(dir.path(), &wider, NOW, Some(&key(dir.path())))
            .unwrap()
            .renewed()
    );
    fs::remove_file(dir.path().join(KEY)).unwrap();
    let again = Identity::open(dir.path(), &wider, NOW, Some(&key(dir.path()))).unwrap();
    assert!(again.renewed());
    handshake(&again, "desk.example", NOW).unwrap();
}

#[test]
fn an_authority_that_is_not_this_grids_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    Identity::found(dir.path(), &subject(&[]), NOW, &key(dir.path())).unwrap();
    let grid_key = key(dir.path());
    let refused = |subject: &Subject, now| {
        let opened = Identity::open(dir.path(), subject, now, Some(&grid_key));
        opened.err().unwrap()
    };

    let other = Subject {
        grid: GridId([4; 16]),
        ..subject(&[])
    };
    assert!(matches!(
        refused(&other, NOW),
        AuthorityError::OtherGrid { .. }
    ));
    let late = NOW.after(Span::hours(3_654 * DAY));
    assert!(matches!(
        refused(&subject(&[]), late),
        AuthorityError::Expired { .. }
    ));
    let bad = subject(&["not a host"]);
    assert!(matches!(refused(&bad, NOW), AuthorityError::Name(_)));
    assert!(matches!(
        Identity::found(dir.path(), &subject(&[]), NOW, &key(dir.path())),
        Err(AuthorityError::Private(PrivateFileError::Exists(_)))
    ));

    let key = dir.path().join(CA_KEY);
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let text = refused(&subject(&[]), NOW).to_string();
    assert!(text.contains("chmod 600"), "{text}");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o600)).unwrap();
    let pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap();
    fs::write(&key, pair.serialize_pem()).unwrap();
    assert!(matches!(
        refused(&subject(&[]), NOW),
        AuthorityError::Damaged { .. }
    ));
    // Another grid's key does not open it.
    let stranger = tempfile::tempdir().unwrap();
    fs::write(&key, self::key(stranger.path()).wrap(b"-----BEGIN")).unwrap();
    let refused = refused(&subject(&[]), NOW);
    assert!(matches!(refused, AuthorityError::Sealed(_)), "{refused}");
}

#[test]
fn the_authoritys_key_lies_sealed_and_one_that_does_not_is_sealed() {
    let dir = tempfile::tempdir().unwrap();
    let grid_key = key(dir.path());
    Identity::found(dir.path(), &subject(&[]), NOW, &grid_key).unwrap();
    let file = dir.path().join(CA_KEY);
    let sealed = fs::read(&file).unwrap();
    let plain = grid_key.unwrap(&sealed).unwrap();
    assert!(plain.starts_with(b"-----BEGIN"));
    assert!(!sealed.windows(5).any(|w| w == b"-----"));
    fs::write(&file, &plain).unwrap();
    let open = || Identity::open(dir.path(), &subject(&[]), NOW, Some(&grid_key)).unwrap();
    assert!(open().issues());
    assert!(!fs::read(&file).unwrap().starts_with(b"-----"));
    assert!(open().issues() && !open().renewed());
}

#[test]
fn a_server_without_the_authoritys_key_is_certified_by_one_that_has_it() {
    let (first, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let grid_key = key(first.path());
    let founder = Identity::found(first.path(), &subject(&[]), NOW, &grid_key).unwrap();
    let beta = Subject {
        server: "beta".parse().unwrap(),
        ..subject(&["b.example"])
    };
    let enrolment = Enrolment::begin(other.path()).unwrap();
    assert_eq!(
        Enrolment::examine(enrolment.request()).unwrap(),
        enrolment.key()
    );
    // Whoever is cut off comes again with the same key.
    let enrolment = Enrolment::begin(other.path()).unwrap();
    let certify = |at| {
        let request = enrolment.request();
        Enrolment::certify(first.path(), &grid_key, request, &beta, at).unwrap()
    };
    let (authority, mine) = (founder.ca_pem(), certify(NOW));
    enrolment.finish(other.path(), authority, &mine).unwrap();
    assert_eq!(
        fingerprint(authority.as_bytes()),
        Some(founder.ca_fingerprint())
    );
    let open = |days: u64, names: &[&str]| {
        let subject = Subject {
            names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..beta.clone()
        };
        let now = NOW.after(Span::hours(days * DAY));
        Identity::open(other.path(), &subject, now, Some(&key(other.path())))
    };
    let identity = open(1, &["b.example"]).unwrap();
    assert!(!identity.issues() && !identity.due() && !identity.renewed());
    handshake(&identity, "b.example", NOW).unwrap();
    // It serves as long as it is valid, and asks for another before.
    assert!(open(1, &[]).unwrap().due());
    assert!(open(61, &["b.example"]).unwrap().due());
    assert!(matches!(
        open(91, &["b.example"]).err().unwrap(),
        AuthorityError::NoKey
    ));
    let again = certify(NOW.after(Span::hours(61 * DAY)));
    enrolment.finish(other.path(), authority, &again).unwrap();
    assert!(!open(62, &["b.example"]).unwrap().due());

    // Neither another's certificate nor another authority's is kept.
    let third = tempfile::tempdir().unwrap();
    let third = Enrolment::begin(third.path()).unwrap();
    assert!(third.finish(other.path(), authority, &mine).is_err());
    let stranger = tempfile::tempdir().unwrap();
    let stranger = Identity::found(stranger.path(), &beta, NOW, &key(stranger.path())).unwrap();
    let theirs = stranger.ca_pem();
    assert!(enrolment.finish(other.path(), theirs, &mine).is_err());
    assert!(Enrolment::examine("what?").is_err());
}

#[test]
fn a_server_that_runs_on_shows_its_new_certificate() {
    let dir = tempfile::tempdir().unwrap();
    let subject = subject(&[]);
    let identity = Identity::found(dir.path(), &subject, NOW, &key(dir.path())).unwrap();
    let renewal = Renewal::of(&identity).unwrap();
    let grid_key = key(dir.path());
    // Made once, as a server makes it at its start.
    let tls = renewal.tls(&["h2"]).unwrap();
    let shake = |now| shake(Arc::clone(&tls), identity.ca_pem(), "localhost", now);
    let later = |days: u64| NOW.after(Span::hours(days * DAY));

    let kept = renewal
        .look(dir.path(), &subject, later(30), Some(&grid_key))
        .unwrap();
    assert!(!kept.renewed());
    let renewed = renewal
        .look(dir.path(), &subject, later(61), Some(&grid_key))
        .unwrap();
    assert!(renewed.renewed());
    shake(later(91)).unwrap();
    // What cannot be looked at leaves what is shown as it is.
    std::fs::write(dir.path().join(CA_KEY), "what?").unwrap();
    assert!(
        renewal
            .look(dir.path(), &subject, later(62), Some(&grid_key))
            .is_err()
    );
    shake(later(91)).unwrap();
}

/// What is agreed on while another authority takes over, at `step`; `None`: afterwards.
fn agreed(
    successor: &coppice_state::authority::Successor,
    step: Option<coppice_state::authority::Step>,
) -> coppice_state::authority::Authorities {
    let rotation = step.map(|step| coppice_state::authority::Rotation {
        successor: successor.clone(),
        step,
        trust: BTreeSet::new(),
        show: BTreeSet::new(),
        begun: NOW,
        author: "ada".to_owned(),
    });
    coppice_state::authority::Authorities {
        current: rotation.is_none().then(|| successor.new.clone()),
        cross: rotation.is_none().then(|| successor.cross.clone()),
        former: Vec::new(),
        rotation,
    }
}

#[test]
fn another_authority_takes_over_and_clients_of_either_are_served_all_the_time() {
    use coppice_state::authority::Step;
    let dir = tempfile::tempdir().unwrap();
    let grid_key = key(dir.path());
    let first = Identity::found(dir.path(), &subject(&[]), NOW, &grid_key).unwrap();
    let made = succeed(dir.path(), GRID, NOW, &grid_key).unwrap();
    let open = || Identity::open(dir.path(), &subject(&[]), NOW, Some(&key(dir.path()))).unwrap();
    for (step, current) in [
        (Some(Step::Trust), made.old.key),
        (Some(Step::Show), made.new.key),
        (None, made.new.key),
    ] {
        let authorities = agreed(&made, step);
        let wanted = authorities.wanted().unwrap();
        assert!(follow(dir.path(), Some(&key(dir.path())), &wanted).unwrap());
        assert!(!follow(dir.path(), Some(&key(dir.path())), &wanted).unwrap());
        let identity = open();
        assert!(identity.issues() && identity.is_current(), "{step:?}");
        assert_eq!(identity.ca_fingerprint(), current, "{step:?}");
        let tls = identity.tls(&["h2"]).unwrap();
        // Whoever knows the old one, what the server holds, and, once it signs, the new one alone.
        shake(Arc::clone(&tls), first.ca_pem(), "localhost", NOW).unwrap();
        shake(Arc::clone(&tls), identity.ca_pem(), "localhost", NOW).unwrap();
        let new = shake(tls, &made.new.certificate, "localhost", NOW);
        assert_eq!(new.is_ok(), current == made.new.key, "{step:?}");
        let trusted = fingerprints(identity.ca_pem().as_bytes());
        assert_eq!(trusted.len(), if step.is_some() { 2 } else { 1 });
    }
    // The next one takes over from that.
    let next = succeed(dir.path(), GRID, NOW, &grid_key).unwrap();
    assert_eq!(next.old, made.new);
}

#[test]
fn a_change_of_authority_that_is_cut_off_anywhere_is_finished_by_the_next_start() {
    use coppice_state::authority::Step;
    let dir = tempfile::tempdir().unwrap();
    let grid_key = key(dir.path());
    Identity::found(dir.path(), &subject(&[]), NOW, &grid_key).unwrap();
    let made = succeed(dir.path(), GRID, NOW, &grid_key).unwrap();
    let authorities = agreed(&made, Some(Step::Show));
    let wanted = authorities.wanted().unwrap();
    let files = |at: &Path| {
        let all = fs::read_dir(at).unwrap().map(|file| file.unwrap().path());
        let all = all.map(|file| (file.clone(), fs::read(file).unwrap()));
        all.collect::<std::collections::BTreeMap<_, _>>()
    };
    let before = files(dir.path());
    follow(dir.path(), Some(&grid_key), &wanted).unwrap();
    let after = files(dir.path());
    let at = |name: &str| dir.path().join(name);
    // In the order in which they are written; the key's own name comes last.
    let steps = ["ca.key.next", "ca.cross.pem", CA_CERTIFICATE, CA_KEY];
    for cut in 0..=steps.len() {
        for file in files(dir.path()).keys() {
            fs::remove_file(file).unwrap();
        }
        for (file, bytes) in &before {
            replace(file, bytes).unwrap();
        }
        for step in &steps[..cut] {
            if *step == CA_KEY {
                fs::rename(at("ca.key.next"), at(CA_KEY)).unwrap();
            } else if *step == "ca.key.next" {
                replace(&at(step), &after[&at(CA_KEY)]).unwrap();
            } else {
                replace(&at(step), &after[&at(step)]).unwrap();
            }
        }
        let open = || Identity::open(dir.path(), &subject(&[]), NOW, Some(&grid_key)).unwrap();
        let started = open();
        assert!(started.issues(), "cut off after {cut} steps");
        follow(dir.path(), Some(&grid_key), &wanted).unwrap();
        let identity = open();
        assert!(identity.issues() && identity.is_current(), "{cut}");
        assert_eq!(identity.ca_fingerprint(), made.new.key, "{cut}");
        assert_eq!(fs::read(at(CA_KEY)).unwrap(), made.sealed, "{cut}");
    }
}
