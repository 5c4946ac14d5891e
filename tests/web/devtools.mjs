/** Pages of a headless Chromium, by the DevTools protocol over a pipe. It knows nothing of what they are for. */
import { spawn } from "node:child_process";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";

const FLAGS = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--remote-debugging-pipe"];

/**
 * Starts the browser with a blank page. `evaluate` runs an expression in a page, awaits it and returns its value, or throws what it
 * threw; `another` opens a page in a window of its own; `close` ends the browser with all of them.
 */
export async function openPage(program = "chromium") {
  const profile = mkdtempSync(join(tmpdir(), "throng-chromium-"));
  const flags = [...FLAGS, `--user-data-dir=${profile}`, "about:blank"];
  const browser = spawn(program, flags, { stdio: ["ignore", "ignore", "ignore", "pipe", "pipe"] });
  const [, , , commands, answers] = browser.stdio;
  const gone = new Promise((resolve) => browser.on("exit", resolve));
  const waiting = new Map();
  let last = 0;
  let rest = "";
  answers.on("data", (chunk) => {
    const texts = (rest + chunk).split("\0");
    rest = texts.pop();
    for (const text of texts) {
      const { id, result, error } = JSON.parse(text);
      const { resolve, reject } = waiting.get(id) ?? {};
      waiting.delete(id);
      if (error) reject?.(new Error(error.message));
      else resolve?.(result);
    }
  });
  const send = (method, params, sessionId) =>
    new Promise((resolve, reject) => {
      waiting.set(++last, { resolve, reject });
      commands.write(`${JSON.stringify({ id: last, method, params, sessionId })}\0`);
    });
  const attach = async (targetId) => {
    const { sessionId } = await send("Target.attachToTarget", { targetId, flatten: true });
    const call = (method, params = {}) => send(method, params, sessionId);
    return {
      call,
      async evaluate(expression) {
        const { result, exceptionDetails } = await call("Runtime.evaluate", { expression, awaitPromise: true, returnByValue: true });
        if (exceptionDetails) throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
        return result.value;
      },
    };
  };
  const { targetInfos } = await send("Target.getTargets", {});
  const first = await attach(targetInfos.find(({ type }) => type === "page").targetId);
  return {
    ...first,
    another: async (url = "about:blank") => attach((await send("Target.createTarget", { url, newWindow: true })).targetId),
    async close() {
      // Asked to end, it waits for its own processes, which write into the profile until then.
      send("Browser.close", {}).catch(() => {});
      await gone;
      rmSync(profile, { recursive: true, force: true, maxRetries: 20 });
    },
  };
}
