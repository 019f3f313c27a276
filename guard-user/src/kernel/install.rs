//! Puts a compiled policy into the kernel tables, beside the one that is in force, and then switches over.

use std::{mem::offset_of, sync::atomic::Ordering};

use aya::maps::MapError;
use guard_common::{
    action::ArgumentKey,
    fork_storm::{PROFILE_SELF_TEST, PROFILES, Profile},
    host::Host,
    identity::LABEL_PROFILE,
};

use super::{
    load::{Kernel, LoadError},
    tables::Plain,
};
use crate::{identity::names::Names, policy::denied::ByArgument};

/// Profiles in one of the two banks of the kernel table.
const BANK: u32 = PROFILES / 2;
/// The last profile of a bank limits nothing.
const NOTHING: u32 = BANK - 1;
/// Profiles that a policy may have, numbered from 1.
pub const PROFILES_OF_A_POLICY: usize = NOTHING as usize - 1;

/// What holds for one kind of container, as the kernel side has it.
pub struct Treated<'p> {
    /// Its profile.
    pub profile: Profile,
    /// What depends on what an action is done to.
    pub arguments: &'p [ByArgument],
}

/// Where a policy stands in the kernel tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bank(u32);

impl Bank {
    /// Index in the kernel's table of the profile with this number in the policy.
    #[must_use]
    pub const fn profile(self, number: u32) -> u32 {
        self.0 * BANK + number
    }

    /// Index of the profile that limits nothing.
    #[must_use]
    pub const fn nothing(self) -> u32 {
        self.profile(NOTHING)
    }
}

/// The number in its policy of a profile of the kernel's table; `None`: it limits nothing.
#[must_use]
pub const fn number_of(profile: u32) -> Option<u32> {
    match profile % BANK {
        NOTHING => None,
        number => Some(number),
    }
}

impl Kernel {
    /// Fills the bank that is not in force, and lets new containers be recognised by it. Those that exist keep their old
    /// limits until their profile is set, so that there is no moment at which neither policy holds.
    ///
    /// # Errors
    /// A table cannot be written; the old policy is then still in force.
    pub fn install(&mut self, names: &Names, limits: &[Treated<'_>]) -> Result<Bank, LoadError> {
        const MATCHER: usize = offset_of!(Host, matcher);
        let in_force = self.host.word(0, MATCHER).load(Ordering::Acquire);
        let bank = Bank(1 - (in_force & 1));
        let profiles = &mut self.profiles;
        let mut set = |index: u32, profile: Profile| {
            profiles
                .set(index, Plain(profile), 0)
                .map_err(|source| LoadError::Table {
                    name: "PROFILES".to_owned(),
                    source,
                })
        };
        for (number, limits) in limits.iter().enumerate().take(PROFILES_OF_A_POLICY + 1) {
            let index = bank.profile(number as u32);
            // The self-test's profile and its counterpart in the other bank are not a policy's.
            if index % BANK != PROFILE_SELF_TEST {
                set(index, limits.profile)?;
            }
        }
        set(bank.nothing(), Profile::default())?;
        self.fill_arguments(bank, limits)
            .map_err(|source| LoadError::Table {
                name: "ARGUMENTS".to_owned(),
                source,
            })?;
        let mut table = Box::new(*names.table());
        let stride = table.stride as usize;
        for label in table
            .transitions
            .chunks_exact_mut(stride)
            .filter_map(|row| row.last_mut())
            .filter(|label| **label & LABEL_PROFILE != 0)
        {
            *label += bank.profile(0) as u16;
        }
        self.fill_matcher(bank.0, &table)?;
        let matcher = self.host.word(0, MATCHER);
        matcher.store(bank.0, Ordering::Release);
        Ok(bank)
    }

    /// Takes the policy before the last out of the table, and puts this one in.
    fn fill_arguments(&mut self, bank: Bank, limits: &[Treated<'_>]) -> Result<(), MapError> {
        let keys: Result<Vec<Plain<ArgumentKey>>, MapError> = self.arguments.keys().collect();
        for key in keys? {
            if key.0.profile / BANK == bank.0 {
                self.arguments.remove(&key)?;
            }
        }
        for (number, limits) in (0_u32..).zip(limits).take(PROFILES_OF_A_POLICY + 1) {
            for of in limits.arguments {
                let key = ArgumentKey {
                    profile: bank.profile(number),
                    action: of.action as u32,
                    argument: of.argument,
                };
                self.arguments.insert(Plain(key), of.fates, 0)?;
            }
        }
        Ok(())
    }
}
