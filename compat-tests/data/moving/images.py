"""Writes two archives into the folder named first: `docker.tar`, two images that share a layer, in the form of `docker
save`, and `oci.tar`, one image for several platforms with gzip layers and an attestation. The second argument is the
program of the images."""
import gzip, hashlib, io, json, sys, tarfile

folder, program = sys.argv[1], open(sys.argv[2], "rb").read()


def layer(*entries):
    """A tar of (name, kind, content or target, more) entries; GNU or PAX as each layer needs."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name, kind, content, more in entries:
            info = tarfile.TarInfo(name)
            info.type, info.mtime = kind, 1700000000
            info.mode = 0o755 if kind == tarfile.DIRTYPE else 0o644
            body = None
            if kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
                info.linkname = content
            elif kind == tarfile.REGTYPE:
                body, info.size = io.BytesIO(content), len(content)
            for key, value in more.items():
                setattr(info, key, value)
            tar.addfile(info, body)
    # An end as no tar of Docker's own has it: the rebuilt tar must have it too.
    return out.getvalue() + bytes(1024 * 3)


D, F, S, H = tarfile.DIRTYPE, tarfile.REGTYPE, tarfile.SYMTYPE, tarfile.LNKTYPE
note = {"pax_headers": {"SCHILY.xattr.user.note": "an attribute"}}
base = layer(
    ("./", D, None, {}), ("bin/", D, None, {}), ("bin/tool", F, program, {"mode": 0o755}), ("bin/link", H, "bin/tool", {"mode": 0o755}),
    ("etc/", D, None, {}), ("etc/gone", F, b"x\n", {}), ("etc/kept", F, b"kept\n", note), ("etc/removed", F, b"y\n", {}),
    ("etc/symbolic", S, "kept", {}), ("opaque/", D, None, {}), ("opaque/old", F, b"old\n", {}),
    ("replaced/", D, None, {}), ("replaced/below", F, b"below\n", {}), ("data/", D, None, {}),
    ("data/from-image", F, b"from the image\n", {"uid": 1000, "gid": 1001}), ("empty", F, b"", {"mode": 0o4755}),
    ("long/" + "n" * 120, F, b"a long name\n", {}), ("pipe", tarfile.FIFOTYPE, None, {}),
)
top = layer(
    ("etc/", D, None, {}), ("etc/.wh.removed", F, b"", {}), ("replaced/", D, None, {}), ("replaced/.wh..wh..opq", F, b"", {}),
    ("replaced/above", F, b"above\n", {}), ("big", F, bytes(range(256)) * 1024, {}),
)
other = layer(("other", F, b"other\n", {}))


def sha(content):
    return hashlib.sha256(content).hexdigest()


def config(layers, **more):
    run = {"Cmd": ["/bin/tool", "change"], "Env": ["PATH=/bin"], "Labels": {"made": "for moving"}, "Volumes": {"/data": {}}}
    history = [{"created": "2024-01-02T03:04:05Z", "created_by": f"step {n}"} for n in range(len(layers))]
    rootfs = {"type": "layers", "diff_ids": ["sha256:" + sha(one) for one in layers]}
    document = {"architecture": "amd64", "os": "linux", "created": "2024-01-02T03:04:05Z", "config": run}
    return json.dumps({**document, "rootfs": rootfs, "history": history, **more}).encode()


def archive(path, files):
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))


files, manifest = {}, []
for tags, layers in (["moving-a:1", "moving-a:latest"], [base, top]), (["example.com/team/moving-b:2"], [base, other]):
    raw = config(layers)
    files[sha(raw) + ".json"] = raw
    for one in layers:
        files[sha(one) + "/layer.tar"] = one
    names = [sha(one) + "/layer.tar" for one in layers]
    manifest.append({"Config": sha(raw) + ".json", "RepoTags": tags, "Layers": names})
archive(folder + "/docker.tar", {**files, "manifest.json": json.dumps(manifest).encode()})

blobs = {}


def blob(media, content, **more):
    blobs["blobs/sha256/" + sha(content)] = content
    return {"mediaType": media, "digest": "sha256:" + sha(content), "size": len(content), **more}


OCI = "application/vnd.oci.image."
packed = [gzip.compress(one, mtime=0) for one in (base, other, top)]
image = blob(OCI + "manifest.v1+json", json.dumps({
    "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
    "config": blob(OCI + "config.v1+json", config([base, other, top])),
    "layers": [blob(OCI + "layer.v1.tar+gzip", one) for one in packed],
}).encode(), platform={"architecture": "amd64", "os": "linux"})
statement = blob("application/vnd.in-toto+json", b'{"_type":"https://in-toto.io/Statement/v0.1"}')
attestation = blob(OCI + "manifest.v1+json", json.dumps({
    "schemaVersion": 2, "mediaType": OCI + "manifest.v1+json",
    "config": blob(OCI + "config.v1+json", config([], architecture="unknown", os="unknown")), "layers": [statement],
}).encode(), platform={"architecture": "unknown", "os": "unknown"}, annotations={
    "vnd.docker.reference.type": "attestation-manifest", "vnd.docker.reference.digest": image["digest"]})
index = blob(OCI + "index.v1+json", json.dumps({
    "schemaVersion": 2, "mediaType": OCI + "index.v1+json", "manifests": [attestation, image]}).encode())
index["annotations"] = {"io.containerd.image.name": "docker.io/library/moving-c:latest", "org.opencontainers.image.ref.name": "latest"}
blobs["oci-layout"] = b'{"imageLayoutVersion":"1.0.0"}'
blobs["index.json"] = json.dumps({"schemaVersion": 2, "manifests": [index]}).encode()
archive(folder + "/oci.tar", blobs)
