//! Makes a run that differs smaller as long as it differs: first by whole ranges of steps, then by operations of batches and by members
//! of bodies.

use tokio_postgres::Client;

use super::{
    Mode, Trial, attempt,
    behind::Behind,
    operations::{Change, Operation, Step},
};

/// Where time matters a smaller run may differ only now and then: more attempts would not help.
const ATTEMPTS_MAX: usize = 400;

/// The smallest trial found that is still wrong.
pub(super) async fn smallest(mode: Mode, reference: &Client, behind: &mut Behind<'_>, wrong: Trial) -> Trial {
    let mut best = wrong;
    let mut attempts = 0;
    let mut range = best.steps.len().div_ceil(2);
    loop {
        let mut smaller = false;
        let mut place = 0;
        while let Some(steps) = without(&best.steps, place, range) {
            if attempts == ATTEMPTS_MAX {
                return best;
            }
            attempts += 1;
            let trial = attempt(mode, reference, behind, &steps).await;
            if trial.wrong.is_some() {
                (best, smaller) = (trial, true);
            } else {
                place += 1;
            }
        }
        match range {
            0 if !smaller => return best,
            0 => {}
            _ => range /= 2,
        }
    }
}

/// Without the `place`-th range of so many steps; with range 0 without the `place`-th part of an operation. None beyond the last.
fn without(steps: &[Step], place: usize, range: usize) -> Option<Vec<Step>> {
    if range == 0 {
        return without_part(steps, place);
    }
    let from = place * range;
    (from < steps.len())
        .then(|| steps.iter().enumerate().filter(|(n, _)| !(from..from + range).contains(n)).map(|(_, step)| step.clone()).collect())
}

fn without_part(steps: &[Step], mut place: usize) -> Option<Vec<Step>> {
    let mut steps = steps.to_vec();
    for step in &mut steps {
        if let Step::Batch(operations) = step {
            if place < operations.len() {
                operations.remove(place);
                steps.retain(|step| !matches!(step, Step::Batch(operations) if operations.is_empty()));
                return Some(steps);
            }
            place -= operations.len();
        }
        let operations = match step {
            Step::Save(operation) => std::slice::from_mut(operation),
            Step::Batch(operations) => operations,
            _ => &mut [],
        };
        for Operation { change, .. } in operations {
            let Change::Set(assignments) = change else { continue };
            if place < assignments.len() {
                assignments.remove(place);
                return Some(steps);
            }
            place -= assignments.len();
        }
    }
    None
}

#[test]
fn every_step_and_every_part_is_left_out_once() {
    let knobs = super::Knobs::default();
    let steps = super::plan(1, knobs).steps;
    let parts = std::iter::successors(Some(0), |n| Some(n + 1)).take_while(|&place| without(&steps, place, 0).is_some()).count();
    let members = |operation: &Operation| if let Change::Set(assignments) = &operation.change { assignments.len() } else { 0 };
    let expected: usize = steps
        .iter()
        .map(|step| step.operations().iter().map(members).sum::<usize>() + if step.is_batch() { step.operations().len() } else { 0 })
        .sum();
    assert_eq!(parts, expected);
    for range in [1, 3, steps.len()] {
        let kept: usize = (0..).map_while(|place| without(&steps, place, range)).map(|left| steps.len() - left.len()).sum();
        assert_eq!(kept, steps.len());
    }
}
