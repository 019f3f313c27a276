//! The programs of the embedded object: each put together with the functions that it calls when it is asked for. A start needs a dozen of
//! eighty.

use std::{
    cell::RefCell,
    collections::{HashMap, HashSet},
    ffi::CString,
    fmt::Display,
    mem,
};

use aya_obj::{Function, Object, generated::bpf_insn};

use super::load::LoadError;

/// The object, with its tables in its programs.
pub struct Image {
    object: RefCell<Object>,
    /// Those that hold functions.
    sections: HashSet<usize>,
}

/// A program, and all that it calls behind it.
pub struct Linked {
    pub license: CString,
    pub code: Vec<bpf_insn>,
}

impl Image {
    /// Of an object whose tables are in its programs.
    pub(super) fn new(object: Object, sections: HashSet<usize>) -> Self {
        Self {
            object: RefCell::new(object),
            sections,
        }
    }

    /// One of its programs.
    ///
    /// # Errors
    /// [`LoadError::Object`].
    pub(super) fn linked(&self, program: &str) -> Result<Linked, LoadError> {
        let broken = |error: &dyn Display| LoadError::Object(format!("{program}: {error}"));
        let lacks = || broken(&"no such program");
        let mut object = self.object.borrow_mut();
        let (name, found) = object.programs.get_key_value(program).ok_or_else(lacks)?;
        let alone = HashMap::from([(name.clone(), found.clone())]);
        let (key, license) = (found.function_key(), found.license.clone());
        let unlinked = object.functions.get(&key).ok_or_else(lacks)?.clone();
        // All that there are would be linked, for good.
        let all = mem::replace(&mut object.programs, alone);
        let result = object.relocate_calls(&self.sections);
        object.programs = all;
        let linked = object.functions.insert(key, unlinked).ok_or_else(lacks)?;
        result.map_err(|error| broken(&error))?;
        Ok(Linked {
            license,
            code: linked.instructions,
        })
    }

    /// Looks at each of its functions, by itself.
    pub(super) fn with_functions<T>(
        &self,
        look: impl FnOnce(&mut dyn Iterator<Item = &Function>) -> T,
    ) -> T {
        look(&mut self.object.borrow().functions.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_program_is_linked_as_when_all_are_whatever_was_linked_before() {
        let object = Object::parse(super::super::object::OBJECT).unwrap();
        let sections: HashSet<usize> = object
            .functions
            .keys()
            .map(|(section, _)| *section)
            .collect();
        let image = Image::new(object.clone(), sections.clone());
        let mut all = object.clone();
        all.relocate_calls(&sections).unwrap();
        let code = |code: &[bpf_insn]| -> Vec<_> {
            let one = |of: &bpf_insn| (of.code, of.dst_reg(), of.src_reg(), of.off, of.imm);
            code.iter().map(one).collect()
        };
        assert!(all.programs.len() > 50);
        // Twice: what was linked once is linked as before.
        for (name, program) in all.programs.iter().chain(&all.programs) {
            let linked = image.linked(name).unwrap();
            let expected = &all.functions[&program.function_key()].instructions;
            assert_eq!(code(&linked.code), code(expected), "{name}");
        }
        let alone = &object.functions[&object.programs["bpf_command"].function_key()];
        let linked = image.linked("bpf_command").unwrap();
        assert!(
            linked.code.len() > alone.instructions.len(),
            "it calls nothing"
        );
        assert!(matches!(image.linked("none"), Err(LoadError::Object(_))));
    }
}
