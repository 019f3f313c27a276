//! The programs that tell what a runtime does in a container from what the container does (`guard_common::setup`).

use super::{
    attach::Link,
    btf::Btf,
    load::{Kernel, LoadError},
};

/// They are attached while anything is judged that runtimes do too: each costs every fork and exec of the host.
#[derive(Default)]
pub struct Setup {
    links: Vec<Link>,
}

impl Setup {
    /// Attaches them, if they are not.
    ///
    /// # Errors
    /// [`LoadError`]. None is attached then.
    pub fn attach(&mut self, kernel: &mut Kernel, btf: &Btf) -> Result<(), LoadError> {
        if self.links.is_empty() {
            let links = kernel.attach_setup(btf)?;
            kernel.pin(&links).inspect_err(|_| kernel.unpin(&links))?;
            self.links = links;
        }
        Ok(())
    }

    /// Lets go of them.
    pub fn detach(&mut self, kernel: &Kernel) {
        kernel.unpin(&self.links);
        self.links.clear();
    }
}
