//! Every scenario, one at a time, inside the virtual machine: `bulkhead-vm-tests [FILTER]`, with cargo test's options.

use guard_tests::{
    daemon,
    hazards::{self, Machine},
};
use libtest_mimic::{Arguments, Trial};

fn main() {
    let mut arguments = Arguments::from_args();
    // They share one host.
    arguments.test_threads = Some(1);
    let machine = Machine::this();
    let trials = hazards::all()
        .into_iter()
        .map(|scenario| {
            let missing = scenario.missing(&machine);
            if let Some(reason) = missing {
                println!("skipping: {}: {reason}", scenario.name);
            }
            let run = scenario.run;
            Trial::test(scenario.name, move || {
                daemon::clear();
                println!();
                let began = std::time::Instant::now();
                let result = run();
                println!("    {:.1} s", began.elapsed().as_secs_f64());
                // At once: what comes at the end is lost where the machine is cut off.
                if let Err(error) = &result {
                    println!("    {error:#}");
                }
                let logs = daemon::take_logs();
                result.map_err(|error| format!("{error:#}\n{logs}").into())
            })
            .with_ignored_flag(missing.is_some())
        })
        .collect();
    libtest_mimic::run(&arguments, trials).exit()
}
