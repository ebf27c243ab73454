// Holds GraphQL documents against GitHub's published schema. Reads a JSON array of
// documents from its input, and writes what is wrong with them, a line for each.
import { readFileSync } from "node:fs";
import { buildSchema, parse, validate } from "graphql";
import { schema as published } from "@octokit/graphql-schema";

// What is published defines some fields twice.
const schema = buildSchema(published.idl, { assumeValidSDL: true });
for (const text of JSON.parse(readFileSync(0, "utf8"))) {
	try {
		for (const e of validate(schema, parse(text))) console.log(`${e.message} in ${text}`);
	} catch (e) {
		console.log(`${e.message} in ${text}`);
	}
}
