import { type Static, Type } from "typebox";

/** One line of `ums doctor`: what was looked at, what was found, and, where that is not enough, the code and the cure. */
export const Check = Type.Object(
  { name: Type.String(), ok: Type.Boolean(), found: Type.String(), code: Type.Optional(Type.String()), cure: Type.Optional(Type.String()) },
  { additionalProperties: false },
);
export type Check = Static<typeof Check>;
