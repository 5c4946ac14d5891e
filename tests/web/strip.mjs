/**
 * What is served of `throng.js`: the source without comments and indentation.
 *
 * The rule is one of lines, so that anybody can follow it: block comments stand on lines of their own, a line comment stands alone or
 * behind `; `, `{ ` or `) `, and no text of the program has two slashes behind these. Invariant: what is not a comment is not changed.
 */
export function strip(source) {
  return source
    .replace(/^ *\/\*\*[^]*?\*\/\n/gm, "")
    .split("\n")
    .map((line) => line.trim().replace(/^\/\/.*$|(?<=[;{)]) \/\/ .*$/, ""))
    .filter((line) => line !== "")
    .join("\n");
}
