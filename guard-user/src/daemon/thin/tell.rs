//! Thin discard: what became of discards is told, device by device.

use guard_common::{
    device::Device as Number,
    thin::{Device, NO_DEVICE, Origin},
};

use super::{Counts, Daemon};
use crate::{
    kernel::tables::Plain,
    policy::model::THIN,
    record::{Kind, Mode, Record, Severity, Verdict},
    thin::origin,
};

impl Daemon {
    /// Tells what became of a device's discards since it was last told.
    pub(super) fn say_discards(&mut self, number: u32) -> Result<(), String> {
        let Some(known) = self.thin.table.get(&number).copied() else {
            return Ok(());
        };
        let Plain(device) =
            (self.kernel.thin.get(&number, 0)).map_err(|error| error.to_string())?;
        let now = Counts::of(&device);
        if now == known.told {
            return Ok(());
        }
        if let Some(known) = self.thin.table.get_mut(&number) {
            known.told = now;
        }
        let name = self.name_of(number);
        let record = |count: u64| {
            Record::new(Kind::Discards)
                .rule(THIN)
                .action("discard")
                .count(count)
                .process(device.process, &device.name)
        };
        let new = |now: u64, told: u64| Some(now.saturating_sub(told)).filter(|new| *new > 0);
        if let Some(count) = new(now.refused, known.told.refused) {
            let record = record(count)
                .severity(Severity::Medium)
                .verdict(Verdict::Deny)
                .outcome(format!("discards of {name} were refused"));
            self.say(record);
        }
        if let Some(count) = new(now.audited, known.told.audited) {
            let record = record(count)
                .severity(Severity::Low)
                .verdict(Verdict::Audit)
                .mode(Mode::Audit)
                .outcome(format!("discards of {name} were let through"));
            self.say(record);
        }
        if let Some(count) = new(now.arrived, known.told.arrived) {
            let origins: Vec<(Origin, u64)> = (self.kernel.origins.iter())
                .filter_map(Result::ok)
                .map(|(Plain(origin), count)| (origin, count))
                .collect();
            let all = origin::words(&origin::of(&origins, number));
            let of_all = all.map_or_else(String::new, |words| format!("; so far {words}"));
            let record = record(count)
                .severity(Severity::High)
                .outcome(format!("discards reached {name} all the same{of_all}"));
            self.say(record);
        }
        Ok(())
    }

    /// A device as people know it.
    fn name_of(&self, number: u32) -> String {
        match self.thin.stack.block(number) {
            Some(block) => match &block.mapped {
                Some(mapped) => format!("{mapped} ({})", block.name),
                None => block.name.clone(),
            },
            None if number == NO_DEVICE => "a file system on no device of its own".to_owned(),
            None => format!("a new device, {}", Number::of(true, number)),
        }
    }
}

impl Counts {
    pub(super) fn of(device: &Device) -> Self {
        Self {
            refused: device.refused,
            audited: device.audited,
            arrived: device.arrived,
        }
    }
}
