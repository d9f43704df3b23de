//! The seal of a saved plan: shows that this grid made it, and that nobody changed it since.

use coppice_plans::plan::{Base, Bounds};
use coppice_schema::ids::GridId;
use coppice_schema::{Desired, Digest};
use coppice_state::secret::Vault;
use serde::Serialize;

use crate::api::{Code, Document, Problem, SAVED_FORMAT, SavedPlan};

/// What the seal is over: every field but the seal.
#[derive(Serialize)]
struct Sealed<'a> {
    format: u32,
    grid: GridId,
    desired: &'a Desired,
    texts: Digest,
    base: &'a Base,
    bounds: &'a Bounds,
    document: &'a Document,
}

/// Puts the grid's seal on a plan.
pub(crate) fn seal(vault: &dyn Vault, mut plan: SavedPlan) -> Result<SavedPlan, Box<Problem>> {
    plan.seal = tag(vault, &plan)?;
    Ok(plan)
}

/// Whether this grid made the plan, and it is as it was made.
pub(crate) fn verify(
    vault: &dyn Vault,
    grid: GridId,
    plan: &SavedPlan,
) -> Result<(), Box<Problem>> {
    let again = "make a new plan with `coppice plan --out`, look at it, and apply that one";
    if plan.format != SAVED_FORMAT {
        let detail = format!(
            "the saved plan has the format {}, and this version reads {SAVED_FORMAT}",
            plan.format
        );
        return Err(Problem::new(Code::Seal, detail, again));
    }
    if plan.grid != grid {
        let detail = format!(
            "the saved plan was made by grid {}, and this is grid {grid}",
            plan.grid
        );
        return Err(Problem::new(
            Code::Seal,
            detail,
            "apply it to the grid that made it",
        ));
    }
    let expected = blake3::Hash::from_bytes(tag(vault, plan)?.0);
    if expected != blake3::Hash::from_bytes(plan.seal.0) {
        let detail = "the saved plan's seal is not this grid's: it was changed after it was made, or made offline";
        return Err(Problem::new(Code::Seal, detail, again));
    }
    Ok(())
}

fn tag(vault: &dyn Vault, plan: &SavedPlan) -> Result<Digest, Box<Problem>> {
    let sealed = Sealed {
        format: plan.format,
        grid: plan.grid,
        desired: &plan.desired,
        texts: plan.texts,
        base: &plan.base,
        bounds: &plan.bounds,
        document: &plan.document,
    };
    let mut bytes = Vec::new();
    ciborium::into_writer(&sealed, &mut bytes)
        .map_err(|error| Problem::internal("seal a plan", &error))?;
    Ok(vault.tag("saved plan", &bytes))
}
