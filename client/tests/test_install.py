#!/usr/bin/python3
"""What `make install` gives an application developer: library, headers, pkg-config file and manual page, enough by themselves."""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "tests", "lib"))

import harness  # noqa: E402

STRICT = ["-Wall", "-Wextra", "-Wshadow", "-pedantic", "-Werror"]


def run(*args, **kwargs):
    done = subprocess.run(args, capture_output=True, text=True, check=False, **kwargs)
    assert done.returncode == 0, f"{' '.join(args)}\n{done.stdout}{done.stderr}"
    return done.stdout


class Install(harness.TestCase):
    def setUp(self):
        super().setUp()
        self.prefix = self.path("usr")
        run("cmake", "--install", harness.BUILD, "--prefix", self.prefix)
        self.lib = os.path.dirname(self.find("libstreamit.so"))
        self.env = {**os.environ, "PKG_CONFIG_PATH": os.path.join(self.lib, "pkgconfig"), "LD_LIBRARY_PATH": self.lib}

    def find(self, name):
        found = [os.path.join(folder, name) for folder, _, files in os.walk(self.prefix) if name in files]
        self.assertEqual(len(found), 1, f"{name}: {found}")
        return found[0]

    def flags(self, *options):
        return run("pkg-config", *options, "streamit", env=self.env).split()

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    def test_the_program_of_the_guide(self):
        with open(os.path.join(harness.ROOT, "docs", "client.md"), encoding="utf-8") as file:
            program = re.search(r"^```c\n(.*?)^```", file.read(), re.M | re.S).group(1)
        out = self.path("orders")
        run("cc", "-std=c11", *STRICT, "-o", out, self.write("orders.c", program), *self.flags("--cflags", "--libs"))
        node = self.node().start()
        read = run(out, node.server, env=self.env)
        self.assertEqual(len(re.findall(r"^orders-0@", read, re.M)), 10)

    def test_each_header_stands_alone_in_c_and_cpp(self):
        folder = os.path.dirname(self.find("client.h"))
        headers = sorted(os.listdir(folder))
        self.assertIn("record_batch.h", headers)
        for header in headers:
            text = f'#include <streamit/{header}>\n#include <streamit/{header}>\nint main(void) {{ return 0; }}\n'
            for compiler, standard, name in (("cc", "c11", "one.c"), ("c++", "c++17", "one.cpp")):
                run(compiler, f"-std={standard}", *STRICT, "-fsyntax-only", self.write(name, text), *self.flags("--cflags"))

    def test_a_cpp_program_links(self):
        text = """#include <streamit/client.h>
int main()
{
    sti_client_config config;
    sti_client *client = nullptr;
    sti_client_config_init(&config);
    config.servers = "nowhere:99999";
    return sti_client_new(&client, &config, nullptr) == STI_E_INVALID_ARGUMENT ? 0 : 1;
}
"""
        out = self.path("cpp")
        run("c++", "-std=c++17", *STRICT, "-o", out, self.write("cpp.cpp", text), *self.flags("--cflags", "--libs"))
        run(out, env=self.env)

    def test_only_our_names_are_exported(self):
        for name in ("libstreamit.so", "libstreamit-batch.so"):
            symbols = [line.split()[-1] for line in run("nm", "-D", "--defined-only", os.path.join(self.lib, name)).splitlines()]
            self.assertTrue(symbols)
            self.assertEqual([s for s in symbols if not s.startswith("sti_")], [], name)
        with open(self.find("client.h"), encoding="utf-8") as file:
            declared = set(re.findall(r"^(?:STI_CLIENT_API[^;]*?)\b(sti_\w+)\(", file.read(), re.M))
        exported = {s.split()[-1] for s in run("nm", "-D", "--defined-only", os.path.join(self.lib, "libstreamit.so")).splitlines()}
        self.assertEqual(declared, exported)

    def test_a_client_in_another_language_finds_the_proto(self):
        self.assertTrue(self.find("streamit.proto").endswith("share/streamit/proto/streamit/v1/streamit.proto"))
        self.assertTrue(os.path.exists(os.path.join(self.prefix, "share/streamit/proto/grpc/reflection/v1/reflection.proto")))
        self.assertEqual(self.find("streamit.1").rpartition("/")[0].rpartition("/")[2], "man1")
        self.assertTrue(self.find("streamitd.8") and self.find("standalone.cfg"))

    def test_soname(self):
        dynamic = run("readelf", "-d", os.path.join(self.lib, "libstreamit.so"))
        self.assertIn("[libstreamit.so.0]", dynamic)
        self.assertTrue(os.path.exists(os.path.join(self.lib, "libstreamit.so.0")))

    def test_the_manual_page_names_every_function(self):
        page = self.find("libstreamit.3")
        with open(page, encoding="utf-8") as file:
            text = file.read()
        with open(self.find("client.h"), encoding="utf-8") as file:
            functions = set(re.findall(r"^STI_CLIENT_API [^;(]*?\b(sti_\w+)\(", file.read(), re.M))
        rare = {"sti_murmur2", "sti_partition_of_key", "sti_producer_topic_partitions", "sti_producer_topic_message_bytes_max",
                "sti_admin_topics_free", "sti_admin_description_free"}
        self.assertEqual({f for f in functions - rare if f not in text}, set())


if __name__ == "__main__":
    harness.main()
