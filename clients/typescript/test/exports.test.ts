import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { test } from "node:test";

const GENERATED = new URL("../src/gen/tinsmith/", import.meta.url);

test("every generated message of an area is exported by @tinsmith/client/<area>/v1", async () => {
  for (const area of readdirSync(GENERATED)) {
    const door = await import(`@tinsmith/client/${area}/v1`);
    for (const file of readdirSync(new URL(`${area}/v1/`, GENERATED))) {
      if (!file.endsWith(".js")) continue;
      const names = Object.keys(await import(new URL(`${area}/v1/${file}`, GENERATED).href));
      assert.deepEqual(names.filter((name) => !(name in door)), [], `${area}/v1/${file}`);
    }
  }
});
