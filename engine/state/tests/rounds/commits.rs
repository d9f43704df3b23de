//! What two people commit, and what is protected.

use coppice_plans::plan::{Finding, FindingKind};
use coppice_schema::Digest;
use coppice_schema::desired::{ClockTime, Days, Opening, Origin, Policy, Weekly, Window};
use coppice_schema::ids::{PolicyName, TemplateName, WindowName};
use coppice_state::{Entry, Outcome, Refusal};

use super::grid::{Grid, config, pool, template};

#[test]
fn a_related_change_makes_a_plan_stale_and_an_unrelated_one_does_not() {
    let mut grid = Grid::founded();
    grid.commit(&config(3));
    let mut other = config(3);
    other.grid.timezone = "Europe/Berlin".to_owned();
    let stale = grid.saved(&config(4), "bob");
    grid.commit(&other);
    let mut grid_after_unrelated = Grid {
        log: grid.log.clone(),
        ..Grid::founded()
    };
    grid_after_unrelated.state = grid.state.clone();
    assert!(matches!(
        grid_after_unrelated.propose(stale.clone()),
        Outcome::Committed { .. }
    ));
    assert_eq!(
        grid_after_unrelated.state.committed.grid.timezone, "Europe/Berlin",
        "what the plan did not touch stays as it was committed"
    );
    grid.commit(&config(7));
    let Outcome::Refused(Refusal::Stale(objects)) = grid.propose(stale) else {
        panic!("must be refused")
    };
    assert_eq!(objects[0].address.to_string(), "pool.lab");
    assert!(objects[0].by.contains("ada"), "{}", objects[0].by);
}

#[test]
fn applying_a_plan_twice_is_applying_it_once() {
    let mut grid = Grid::founded();
    grid.commit(&config(3));
    let entry = grid.log.last().unwrap().entry.clone();
    let before = grid.state.revision;
    assert!(matches!(grid.propose(entry), Outcome::Already { .. }));
    assert_eq!(grid.state.revision, before);
}

#[test]
fn a_protected_pool_outlives_its_block() {
    let mut grid = Grid::founded();
    let mut desired = config(2);
    pool(&mut desired).protect = true;
    grid.commit(&desired);
    grid.settle();
    let mut without = desired.clone();
    without.pools.clear();
    grid.commit(&without);
    grid.settle();
    assert_eq!(grid.phases().len(), 2);
    pool(&mut desired).protect = false;
    grid.commit(&desired);
    grid.commit(&without);
    grid.settle();
    assert!(grid.phases().is_empty());
}

#[test]
fn a_commit_does_not_remove_what_another_person_came_to_use() {
    let mut grid = Grid::founded();
    let mut first = config(1);
    let other: TemplateName = "other".parse().unwrap();
    let same = template(&mut first).clone();
    first.templates.insert(other.clone(), same);
    grid.commit(&first);
    let mut without = first.clone();
    without.templates.remove(&other);
    let removal = grid.saved(&without, "bob");
    let mut using = first.clone();
    let mut office = pool(&mut using).clone();
    office.template = other.clone();
    using.pools.insert("office".parse().unwrap(), office);
    grid.commit(&using);
    let Outcome::Refused(Refusal::Stale(objects)) = grid.propose(removal) else {
        panic!("must be refused")
    };
    assert_eq!(objects[0].address.to_string(), "pool.office");
    assert!(objects[0].by.contains("ada"), "{}", objects[0].by);
    assert!(
        objects[0].by.contains("template.other"),
        "{}",
        objects[0].by
    );
    assert!(grid.state.committed.templates.contains_key(&other));
}

#[test]
fn a_commit_does_not_leave_another_persons_pool_with_the_policy_of_before() {
    let mut grid = Grid::founded();
    let mut first = config(1);
    let calm: PolicyName = "calm".parse().unwrap();
    first.policies.insert(calm.clone(), Policy::default());
    grid.commit(&first);
    let mut stricter = first.clone();
    stricter.policies.get_mut(&calm).unwrap().rollout.canary = 1;
    let change = grid.saved(&stricter, "bob");
    let mut using = first.clone();
    pool(&mut using).policies.push(calm);
    grid.commit(&using);
    let Outcome::Refused(Refusal::Stale(objects)) = grid.propose(change) else {
        panic!("must be refused")
    };
    assert_eq!(objects[0].address.to_string(), "pool.lab");
    assert!(objects[0].by.contains("ada"), "{}", objects[0].by);
}

#[test]
fn a_plan_that_waits_for_a_window_is_stale_when_somebody_opens_it() {
    let mut grid = Grid::founded();
    grid.import("2", Digest::of(b"stored tiny 2"));
    let mut first = config(1);
    let evenings: WindowName = "evenings".parse().unwrap();
    let weekly = Weekly {
        days: Days(0b1_1111),
        from: ClockTime(19 * 60),
        to: ClockTime(23 * 60),
    };
    let window = Window {
        opening: Opening::Weekly(weekly),
        deny: false,
    };
    first.windows.insert(evenings.clone(), window);
    pool(&mut first).policy.rollout.window = Some(evenings.clone());
    grid.commit(&first);
    grid.settle();
    let mut newer = first.clone();
    newer.images.values_mut().next().unwrap().origin = Origin::Version("2".parse().unwrap());
    let reviewed = grid.saved(&newer, "bob");
    let mut open = first.clone();
    let Opening::Weekly(weekly) = &mut open.windows.get_mut(&evenings).unwrap().opening else {
        panic!("it is weekly")
    };
    weekly.from = ClockTime(0);
    let mut elsewhere = first.clone();
    elsewhere.grid.timezone = "Asia/Tokyo".to_owned();
    for (change, names) in [(open, "window.evenings"), (elsewhere, "grid")] {
        let mut grid = Grid {
            state: grid.state.clone(),
            log: grid.log.clone(),
            now: grid.now,
            ..Grid::founded()
        };
        grid.commit(&change);
        let Outcome::Refused(Refusal::Stale(objects)) = grid.propose(reviewed.clone()) else {
            panic!("must be refused: {names}")
        };
        assert_eq!(objects[0].address.to_string(), names);
    }
}

#[test]
fn a_version_of_a_protected_image_is_not_removed() {
    let mut grid = Grid::founded();
    grid.import("2", Digest::of(b"stored tiny 2"));
    let mut desired = config(1);
    desired.images.values_mut().next().unwrap().protect = true;
    grid.commit(&desired);
    let removal = Entry::ImageRemoved {
        image: "tiny".parse().unwrap(),
        version: "2".parse().unwrap(),
        author: "bob".to_owned(),
    };
    let Outcome::Refused(refusal) = grid.propose(removal.clone()) else {
        panic!("must be refused")
    };
    assert!(refusal.to_string().contains("protect = false"), "{refusal}");
    desired.images.values_mut().next().unwrap().protect = false;
    grid.commit(&desired);
    assert_eq!(grid.propose(removal), Outcome::Done);
}

#[test]
fn a_kept_pool_whose_last_form_is_forgotten_says_that_it_is_not_looked_after() {
    let mut grid = Grid::founded();
    let mut desired = config(1);
    desired.grid.keep_revisions = 1;
    pool(&mut desired).protect = true;
    grid.commit(&desired);
    grid.settle();
    desired.pools.clear();
    grid.commit(&desired);
    let plan = grid.plan_for(&desired);
    let told = |finding: &Finding| finding.kind == FindingKind::KeptUntended;
    assert!(plan.findings.iter().any(told), "{:#?}", plan.findings);
    assert!(plan.actions.is_empty(), "{:#?}", plan.actions);
}

#[test]
fn a_pool_without_its_template_says_so() {
    let mut grid = Grid::founded();
    grid.commit(&config(1));
    let mut desired = config(1);
    desired.templates.clear();
    let plan = grid.plan_for(&desired);
    let told = |finding: &Finding| matches!(finding.kind, FindingKind::TemplateAbsent { .. });
    assert!(plan.findings.iter().any(told), "{:#?}", plan.findings);
}
