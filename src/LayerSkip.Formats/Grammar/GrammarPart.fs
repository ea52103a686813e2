namespace LayerSkip

open System.Collections.Generic

/// What a text may be, as a tree over automata; rules make it a graph. Compared by identity.
[<RequireQualifiedAccess; ReferenceEquality>]
type internal GrammarPart =
    /// The empty text.
    | Empty
    /// A text of the automaton.
    | Text of Dfa
    | Both of GrammarPart * GrammarPart
    | Either of GrammarPart list
    /// `most` below 0: without end.
    | Repeat of GrammarPart * least: int * most: int
    | Rule of GrammarRule

/// A part by a name, so that it can hold itself.
and [<Sealed>] internal GrammarRule(name: string) =
    member _.Name = name
    member val Body = GrammarPart.Empty with get, set

/// A set of texts: a context-free language over bytes. Immutable. What it holds is never empty, and every beginning of a text
/// can be finished.
[<Sealed>]
type Grammar internal (root: GrammarPart) =
    member internal _.Root = root

[<RequireQualifiedAccess>]
module internal GrammarPart =
    /// One after the other.
    let sequence (parts: GrammarPart list) : GrammarPart =
        match List.rev parts with
        | [] -> GrammarPart.Empty
        | last :: before -> before |> List.fold (fun rest part -> GrammarPart.Both(part, rest)) last

    /// The part or nothing.
    let optional (part: GrammarPart) : GrammarPart = GrammarPart.Repeat(part, 0, 1)

    /// A rule with a body.
    let rule (name: string) (body: GrammarPart) : GrammarPart =
        GrammarPart.Rule(GrammarRule(name, Body = body))

    let rec private rulesIn (part: GrammarPart) : GrammarRule list =
        match part with
        | GrammarPart.Empty
        | GrammarPart.Text _ -> []
        | GrammarPart.Both(a, b) -> rulesIn a @ rulesIn b
        | GrammarPart.Either parts -> List.collect rulesIn parts
        | GrammarPart.Repeat(part, _, _) -> rulesIn part
        | GrammarPart.Rule rule -> [ rule ]

    let private reachable (root: GrammarPart) : List<GrammarRule> =
        let seen = HashSet<GrammarRule>(HashIdentity.Reference)
        let found = List<GrammarRule>()

        let add part =
            for rule in rulesIn part do
                if seen.Add rule then
                    found.Add rule

        add root
        let mutable next = 0

        while next < found.Count do
            add found[next].Body
            next <- next + 1

        found

    /// The least set of rules of which something holds that is told from the rules already in it.
    let private fixpoint (rules: List<GrammarRule>) (holds: HashSet<GrammarRule> -> GrammarPart -> bool) =
        let found = HashSet<GrammarRule>(HashIdentity.Reference)
        let mutable grows = true

        while grows do
            grows <- false

            // What a rule holds mostly stands behind it.
            for rule in Seq.rev rules do
                if not (found.Contains rule) && holds found rule.Body then
                    found.Add rule |> ignore
                    grows <- true

        found

    let rec private finishes (known: HashSet<GrammarRule>) (part: GrammarPart) =
        match part with
        | GrammarPart.Empty -> true
        | GrammarPart.Text dfa -> not dfa.IsNothing
        | GrammarPart.Both(a, b) -> finishes known a && finishes known b
        | GrammarPart.Either parts -> List.exists (finishes known) parts
        | GrammarPart.Repeat(part, least, _) -> least = 0 || finishes known part
        | GrammarPart.Rule rule -> known.Contains rule

    /// What is left of a part without the ways that cannot be finished.
    let rec private prune (known: HashSet<GrammarRule>) (part: GrammarPart) : GrammarPart option =
        match part with
        | GrammarPart.Both(a, b) ->
            match prune known a, prune known b with
            | Some a, Some b -> Some(GrammarPart.Both(a, b))
            | _ -> None
        | GrammarPart.Either parts ->
            match List.choose (prune known) parts with
            | [] -> None
            | [ one ] -> Some one
            | several -> Some(GrammarPart.Either several)
        | GrammarPart.Repeat(inner, least, most) ->
            match prune known inner with
            | Some inner -> Some(GrammarPart.Repeat(inner, least, most))
            | None when least = 0 -> Some GrammarPart.Empty
            | None -> None
        | _ -> if finishes known part then Some part else None

    /// The grammar of a part; None where no text can be finished. A rule may not come back to itself before it has read
    /// anything (compilers of schemas see to that).
    let tryGrammar (root: GrammarPart) : Grammar option =
        let rules = reachable root
        let known = fixpoint rules finishes

        for rule in known do
            rule.Body <- (prune known rule.Body).Value

        prune known root |> Option.map Grammar
