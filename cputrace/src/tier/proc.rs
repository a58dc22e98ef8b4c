//! No samples: the `/proc` timeline alone, which needs no privilege.

use super::{Sampler, Ticks, TierError};
use crate::collect::Batch;
use crate::model::{ProgramCost, Tier};

/// Samples nothing.
#[derive(Debug)]
pub struct NoSampler;

impl Sampler for NoSampler {
    fn tier(&self) -> Tier {
        Tier::Proc
    }

    fn enable(&mut self) -> Result<(), TierError> {
        Ok(())
    }

    fn disable(&mut self) -> Result<(), TierError> {
        Ok(())
    }

    fn drain(&mut self, _: &mut Batch) {}

    fn add_target(&mut self, _: u32) -> Result<(), TierError> {
        Ok(())
    }

    fn remove_target(&mut self, _: u32) {}

    fn ticks(&mut self) -> Result<Ticks, TierError> {
        Ok(Ticks::default())
    }

    fn bpf_costs(&self) -> Option<Vec<ProgramCost>> {
        None
    }
}
