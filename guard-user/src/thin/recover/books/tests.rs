use std::path::PathBuf;

use super::*;

fn write(path: PathBuf, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

/// Docker's folder, as its `devicemapper` driver leaves it.
struct Docker(PathBuf);

impl Docker {
    fn new(name: &str) -> Self {
        let root =
            std::env::temp_dir().join(format!("bulkhead-books-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&root);
        let docker = Self(root);
        docker.metadata(
            "deviceset-metadata",
            r#"{"next_device_id":4,"BaseDeviceFilesystem":"xfs"}"#,
        );
        docker.metadata(
            "transaction-metadata",
            r#"{"open_transaction_id":3,"device_hash":"","device_id":0}"#,
        );
        docker
    }

    fn metadata(&self, name: &str, text: &str) {
        write(self.0.join("devicemapper/metadata").join(name), text);
    }

    fn volume(&self, name: &str, id: u64) {
        let text = format!(
            r#"{{"device_id":{id},"size":10737418240,"transaction_id":{id},"initialized":true,"deleted":false}}"#
        );
        self.metadata(name, &text);
    }

    fn read(&self) -> Books {
        Books::read(&self.0).unwrap().unwrap()
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[test]
fn volumes_are_the_base_layers_and_containers_by_name() {
    let docker = Docker::new("whose");
    let [layer, mount, stray] = ["a", "b", "c"].map(|digit| digit.repeat(64));
    let (id, chain) = ("1".repeat(64), "2".repeat(64));
    docker.volume("base", 1);
    docker.volume(&layer, 2);
    docker.volume(&mount, 3);
    docker.volume(&format!("{mount}-init"), 4);
    docker.volume(&stray, 5);
    let layers = docker.0.join("image/devicemapper/layerdb");
    write(layers.join("sha256").join(&chain).join("cache-id"), &layer);
    write(layers.join("mounts").join(&id).join("mount-id"), &mount);
    write(
        layers.join("mounts").join(&id).join("init-id"),
        &format!("{mount}-init"),
    );
    write(
        docker.0.join("containers").join(&id).join("config.v2.json"),
        r#"{"Name":"/web","ID":"x"}"#,
    );
    let books = docker.read();
    let owner = |id| books.volumes[&id].owner.clone();
    let container = |init| Owner::Container {
        id: Text::from(&id),
        name: Some(Text::from("web")),
        init,
    };
    assert_eq!(books.troubles, []);
    assert_eq!(owner(1), Owner::Base);
    assert_eq!(
        owner(2),
        Owner::Layer {
            chain: Text::from(&chain)
        }
    );
    assert_eq!(owner(3), container(false));
    assert_eq!(owner(4), container(true));
    assert_eq!(owner(5), Owner::Nobody);
    assert_eq!(books.volumes[&3].size, Some(10 << 30));
}

#[test]
fn where_docker_was_never_there_are_none() {
    assert!(Books::read(Path::new("/nowhere/at/all")).unwrap().is_none());
}

#[test]
fn what_cannot_be_is_told_and_the_rest_is_read() {
    let docker = Docker::new("wrong");
    docker.volume("base", 1);
    docker.metadata(&"a".repeat(64), "{");
    docker.metadata(
        &"b".repeat(64),
        r#"{"device_id":"2","size":1,"transaction_id":1}"#,
    );
    docker.metadata(
        &"c".repeat(64),
        r#"{"device_id":16777216,"size":512,"transaction_id":1}"#,
    );
    docker.metadata(&"d".repeat(64), &" ".repeat(70_000));
    docker.metadata(
        &"e".repeat(64),
        r#"{"device_id":2,"size":18446744073709551615,"transaction_id":1}"#,
    );
    std::os::unix::fs::symlink(
        "base",
        docker.0.join("devicemapper/metadata").join("f".repeat(64)),
    )
    .unwrap();
    docker.metadata("x; rm -rf", "{}");
    let books = docker.read();
    assert_eq!(books.troubles.len(), 5, "{:?}", books.troubles);
    assert_eq!(books.volumes.keys().collect::<Vec<_>>(), [&1, &2]);
    assert_eq!(books.volumes[&2].size, None);
}

#[test]
fn a_name_with_an_escape_is_text_and_a_path_is_no_name() {
    let docker = Docker::new("names");
    let (id, mount) = ("1".repeat(64), "b".repeat(64));
    docker.volume(&mount, 3);
    let mounts = docker.0.join("image/devicemapper/layerdb/mounts");
    write(mounts.join(&id).join("mount-id"), &mount);
    write(mounts.join(&id).join("init-id"), "../../../etc/shadow");
    write(
        docker.0.join("containers").join(&id).join("config.v2.json"),
        r#"{"Name":"/a\u001b[2J"}"#,
    );
    let Owner::Container { name, .. } = docker.read().volumes[&3].owner.clone() else {
        panic!("it is a container's");
    };
    assert_eq!(name.unwrap().as_str(), r"a\x1b[2J");
}
