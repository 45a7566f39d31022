"""A real Apache Kafka on this machine, for tests, benchmarks and the demo: one node, loopback only, no container.

    with Broker(folder) as broker: ...          # broker.bootstrap answers; .kill() and .start() bounce it on the same data
    python -m examples.kafka.broker up          # `make kafka-up`; `down` stops it

Its jars come through Maven once, into a cache folder (BURNGUARD_CACHE, else ~/.cache/burnguard).
"""

from __future__ import annotations

import base64
import json
import os
import random
import secrets
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
import time
import uuid
from pathlib import Path
from types import TracebackType

import click

VERSION = "4.1.0"
POM = Path(__file__).with_name("pom.xml")
TOOLS = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
}
STARTS_WITHIN_S = 60.0
STOPS_WITHIN_S = 20.0


class Unavailable(RuntimeError):
    """There can be no broker here, and why."""


def cache() -> Path:
    return Path(os.environ.get("BURNGUARD_CACHE") or Path.home() / ".cache" / "burnguard")


def fetch() -> Path:
    """The folder with Kafka's jars; the first call downloads them (54 MB). Two processes may call at once."""
    home = cache() / f"kafka-{VERSION}"
    for tool in ("java", "keytool") if home.exists() else ("java", "keytool", "mvn"):
        if shutil.which(tool) is None:
            raise Unavailable(f"{tool} is not on the PATH: install Java 17 or newer, and Maven")
    if home.exists():
        return home
    cache().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache(), prefix="fetching-") as folder:
        whole = Path(folder) / "jars"
        command = ["mvn", "-B", "-q", "-f", str(POM), "dependency:copy-dependencies", f"-DoutputDirectory={whole}"]
        got = subprocess.run(command, capture_output=True, text=True)
        if got.returncode:
            raise Unavailable("Maven could not fetch Kafka: " + (got.stdout + got.stderr)[-800:].strip())
        try:
            whole.rename(home)
        except OSError:
            if not home.exists():  # else another process was faster, and its jars are as good
                raise
    return home


class Broker:
    """One node, broker and controller in one process, whose data, ports and password live in `folder`.

    Anonymous clients of `bootstrap` are super users; alice of `sasl_ssl` (PLAIN, SCRAM) and the client certificate of
    `ssl` may do what no ACL reserves for others. `settings` go over the broker's own.
    """

    username = "alice"

    def __init__(self, folder: Path, **settings: str) -> None:
        self.folder = folder.absolute()
        self.ca = self.folder / "ca.pem"
        self.client_keystore = self.folder / "client.p12"
        """For `ssl`: key and certificate (PKCS12, its password is `password`)."""
        self._settings = settings
        self._process: subprocess.Popen[bytes] | None = None
        self._jars = fetch()
        if not (self.folder / "node.json").exists():
            self._format()
        node = json.loads((self.folder / "node.json").read_text())
        self.password: str = node["password"]
        self._ports: list[int] = node["ports"]
        self.bootstrap, self.sasl_ssl, self.ssl = (f"127.0.0.1:{port}" for port in self._ports[:3])

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    @property
    def pid(self) -> int | None:
        """The running broker's process, also where another process started it."""
        if self._process is not None:
            return self._process.pid if self._process.poll() is None else None
        file = self.folder / "pid"
        if not file.exists():
            return None
        pid = int(file.read_text())
        listed = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True).stdout
        return pid if str(self.folder) in listed else None

    def start(self) -> None:
        """Returns when it answers. Starting a running one does nothing."""
        if self.pid is not None:
            return
        with (self.folder / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                self._java("-Xmx1g", "kafka.Kafka", str(self._properties())),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        (self.folder / "pid").write_text(str(self._process.pid))
        deadline = time.monotonic() + STARTS_WITHIN_S
        while not _answers(self._ports[0]):
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.kill()
                raise RuntimeError(f"Kafka did not start: {(self.folder / 'log.txt').read_text()[-2000:]}")
            time.sleep(0.1)

    def stop(self) -> None:
        """An orderly stop; the data stays."""
        if not self._ends(signal.SIGTERM):
            self.kill()

    def kill(self) -> None:
        """SIGKILL, as if the process had lost its power."""
        self._ends(signal.SIGKILL)

    def tool(self, name: str, *arguments: str, stdin: str = "") -> str:
        """What Kafka's own command prints, such as kafka-topics. Raises CalledProcessError."""
        command = self._java(TOOLS[name], *arguments)
        return subprocess.run(command, input=stdin, check=True, capture_output=True, encoding="utf-8").stdout

    def _ends(self, how: signal.Signals) -> bool:
        """Whether it is gone in time."""
        if (pid := self.pid) is not None:
            os.kill(pid, how)
        deadline = time.monotonic() + STOPS_WITHIN_S
        while self.pid is not None:
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def _java(self, *arguments: str) -> list[str]:
        log = ["-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-Dorg.slf4j.simpleLogger.showDateTime=true"]
        return ["java", *log, "-cp", f"{self._jars}/*", *arguments]

    def _format(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o700)
        self.password = secrets.token_urlsafe(12)
        self._ports = free_ports(4)
        self._certificates()
        scram = [f"SCRAM-SHA-{n}=[name={self.username},password={self.password}]" for n in (256, 512)]
        cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
        tool = self._java(
            "kafka.tools.StorageTool", "format", "--standalone", f"--cluster-id={cluster}", "-c", str(self._properties())
        )
        done = subprocess.run([*tool, "-S", scram[0], "-S", scram[1]], capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"kafka.tools.StorageTool: {done.stdout + done.stderr}")
        (self.folder / "node.json").write_text(json.dumps({"password": self.password, "ports": self._ports}))

    def _certificates(self) -> None:
        """The broker's own certificate (`ca.pem` is what its clients trust) and one client's, which the broker trusts."""
        for name, alt in (("server", ["-ext", "SAN=ip:127.0.0.1,dns:localhost"]), ("client", [])):
            made = ["-genkeypair", "-alias", name, "-keyalg", "RSA", "-dname", f"CN={name}", "-validity", "3650", *alt]
            self._keytool(f"{name}.p12", *made, "-ext", "bc:critical=ca:true", "-ext", "ku=digitalSignature,keyCertSign")
        self._keytool("server.p12", "-exportcert", "-rfc", "-alias", "server", "-file", str(self.ca))
        client = str(self.folder / "client.pem")
        self._keytool("client.p12", "-exportcert", "-rfc", "-alias", "client", "-file", client)
        self._keytool("trusted.p12", "-importcert", "-noprompt", "-alias", "client", "-file", client)

    def _keytool(self, store: str, *arguments: str) -> None:
        at = ["-keystore", str(self.folder / store), "-storetype", "PKCS12", "-storepass", self.password]
        subprocess.run(["keytool", *arguments, *at], check=True, capture_output=True)

    def _properties(self) -> Path:
        names = ("PLAINTEXT", "SASL_SSL", "SSL", "CONTROLLER")
        listeners = [f"{name}://127.0.0.1:{port}" for name, port in zip(names, self._ports, strict=True)]
        module = "org.apache.kafka.common.security"
        lines = {
            "process.roles": "broker,controller",
            "node.id": "1",
            "log.dirs": str(self.folder / "data"),
            "listeners": ",".join(listeners),
            "advertised.listeners": ",".join(listeners[:3]),
            "listener.security.protocol.map": "CONTROLLER:PLAINTEXT,PLAINTEXT:PLAINTEXT,SASL_SSL:SASL_SSL,SSL:SSL",
            "controller.listener.names": "CONTROLLER",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{self._ports[3]}",
            "offsets.topic.replication.factor": "1",
            "offsets.topic.num.partitions": "4",
            "transaction.state.log.replication.factor": "1",
            "transaction.state.log.min.isr": "1",
            "transaction.state.log.num.partitions": "4",
            "share.coordinator.state.topic.replication.factor": "1",
            "share.coordinator.state.topic.min.isr": "1",
            "group.initial.rebalance.delay.ms": "0",
            "broker.heartbeat.interval.ms": "500",
            "broker.session.timeout.ms": "4000",  # after a SIGKILL the next start waits for it
            "auto.create.topics.enable": "false",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "allow.everyone.if.no.acl.found": "true",
            "super.users": "User:ANONYMOUS",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.sasl_ssl.plain.sasl.jaas.config": f"{module}.plain.PlainLoginModule required "
            f'user_{self.username}="{self.password}";',
            "ssl.keystore.location": str(self.folder / "server.p12"),
            "ssl.keystore.password": self.password,
            "ssl.truststore.location": str(self.folder / "trusted.p12"),
            "ssl.truststore.password": self.password,
            "listener.name.ssl.ssl.client.auth": "required",
        }
        for n in (256, 512):
            login = f"{module}.scram.ScramLoginModule required;"
            lines[f"listener.name.sasl_ssl.scram-sha-{n}.sasl.jaas.config"] = login
        path = self.folder / "server.properties"
        path.write_text("".join(f"{name}={value}\n" for name, value in (lines | self._settings).items()))
        return path


def free_ports(count: int) -> list[int]:
    """Below the range of outgoing ports: a client retrying a broker that is down must not take its port, or meet itself."""
    found: set[int] = set()
    while len(found) < count:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        found.add(port)
    return sorted(found)


def _answers(port: int) -> bool:
    """Whether a broker there answers an ApiVersions request: it does so only when it can serve."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=2) as peer:
            peer.sendall(struct.pack(">ihhih", 10, 18, 0, 1, -1))
            return len(peer.recv(8)) == 8
    except OSError:
        return False


@click.command()
@click.argument("do", type=click.Choice(["fetch", "up", "down"]))
@click.option("--dir", "folder", type=click.Path(path_type=Path), help="Where the broker lives; else the cache folder.")
def main(do: str, folder: Path | None) -> None:
    """Fetch Kafka's jars, or start and stop a broker on this machine."""
    folder = (folder or cache() / "kafka-up").absolute()
    try:
        if do == "fetch":
            there = (cache() / f"kafka-{VERSION}").exists()
            print(f"Apache Kafka {VERSION}: {'already in' if there else 'fetched through Maven into'} {fetch()}")
        elif do == "up":
            broker = Broker(folder)
            broker.start()
            print(f"Kafka {VERSION} answers (process {broker.pid}, data and log in {folder}). In your shell:")
            print(f"  export BURNGUARD_KAFKA_BOOTSTRAP={broker.bootstrap}")
            print("  .venv/bin/burnguard topics init")
            print("`make kafka-down` stops it; its data stays until you remove the folder.")
        elif not (folder / "node.json").exists() or (broker := Broker(folder)).pid is None:
            print(f"no broker of {folder} is running")
        else:
            broker.stop()
            print(f"stopped; data stays in {folder}")
    except Unavailable as error:
        raise click.ClickException(str(error)) from error


if __name__ == "__main__":
    main()
