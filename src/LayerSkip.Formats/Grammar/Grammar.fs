namespace LayerSkip

open System

/// Where a text under a grammar stands, token by token. Immutable: `Advance` returns where it stands then, so that drafts
/// branch. Threads may share it, and all that grew from it; texts that begin at the same one share what it has worked out.
[<Sealed>]
type GrammarState internal (machine: GrammarMachine, stopIds: int[], at: GrammarNode, isStopped: bool) =
    /// Whether the text is one of the grammar's.
    member _.MayEnd: bool = at.Ends
    /// Whether nothing but a stop id may come.
    member _.IsComplete: bool = at.Ends && at.Heads.Length = 0
    /// Whether the text has left the grammar, by a token that might not come: then none may.
    member _.HasLeft: bool = machine.IsDead at

    /// Fills a bit mask over the vocabulary with the tokens that may come: those whose bytes the grammar allows, and where the
    /// text may end the stop ids. Where a vocabulary lacks the bytes to go on, it is the stop ids alone.
    member _.Allows(mask: Span<uint64>) : unit =
        mask.Clear()

        let set =
            if isStopped then
                TokenSet.Few [||]
            else
                lock machine (fun () -> machine.Allowed at)

        TokenBytes.Unite(set, mask)

        // A stop id may be a text's token too: it would end the text within.
        for id in stopIds do
            if id >>> 6 < mask.Length then
                TokenBits.remove id mask

        if at.Ends || (at.Heads.Length > 0 && not (mask.ContainsAnyExcept 0UL)) then
            TokenBytes.Unite(TokenSet.Few stopIds, mask)

    /// The state after a token.
    member this.Advance(id: int) : GrammarState =
        if Array.contains id stopIds then
            let at =
                if at.Ends then
                    at
                else
                    lock machine (fun () -> machine.Dead)
            GrammarState(machine, stopIds, at, true)
        else
            GrammarState(machine, stopIds, lock machine (fun () -> machine.After(at, id)), false)

/// Grammars, and texts under them.
[<RequireQualifiedAccess; CompilationRepresentation(CompilationRepresentationFlags.ModuleSuffix)>]
module Grammar =
    let private ofPart what (make: unit -> GrammarPart) : Result<Grammar, LayerSkipError list> =
        try
            match GrammarPart.tryGrammar (make ()) with
            | Some grammar -> Ok grammar
            | None -> Check.unsupported $"{what} that no text fits" "let it allow something"
        with PatternRefused fault ->
            Check.unsupported $"{what} with {fault}" "write a simpler one"

    let private known (part: GrammarPart) = (GrammarPart.tryGrammar part).Value

    /// Any JSON value, without white space but for at most one space after a colon or comma.
    let json: Grammar = known JsonParts.any

    /// Any JSON object: OpenAI's `json_object`.
    let jsonObject: Grammar = known (JsonParts.mapOf (JsonParts.pair JsonText.text JsonParts.any) 0 -1)

    /// One of these texts, none of which is empty.
    let choices (texts: string list) : Result<Grammar, LayerSkipError list> =
        if texts.IsEmpty || List.contains "" texts then
            let given = texts |> List.map (fun text -> $"\"{text}\"") |> String.concat ", "
            Check.outOfRange "choices" given "a list of texts, none of them empty"
        else
            ofPart "a list of choices" (fun () -> GrammarPart.Text(JsonText.oneOf texts))

    /// Texts that are a regular expression of ECMA-262 from beginning to end. Look-around, back-references and word
    /// boundaries are refused.
    let regex (pattern: string) : Result<Grammar, LayerSkipError list> =
        ofPart "a regular expression" (fun () ->
            GrammarPart.Text(Dfa.ofRegex (EcmaPattern.whole ByteRegex.utf8 pattern)))

    /// Just this text.
    let literal (text: string) : Grammar = known (GrammarPart.Text(JsonText.literal text))

    /// A text of each, one after the other.
    let sequence (grammars: Grammar list) : Grammar =
        known (GrammarPart.sequence (grammars |> List.map _.Root))

    /// A text of one of them, of which there is at least one.
    let either (grammars: Grammar list) : Grammar = known (GrammarPart.Either(grammars |> List.map _.Root))

    let private printable = [| for b in 0x20uy .. 0x7Euy -> b |]

    /// The beginning of a text under a grammar over a vocabulary, which ends by one of `stopIds`. Keep it for as long as the
    /// grammar is in use: it learns. Errors: no stop id, or a vocabulary in which some character of ASCII is no token of its own,
    /// so that not every text could be spelled.
    let start
        (grammar: Grammar)
        (tokens: TokenBytes)
        (stopIds: int[])
        : Result<GrammarState, LayerSkipError list> =
        let single = System.Collections.Generic.HashSet<byte>()

        for id in 0 .. tokens.Count - 1 do
            match tokens.Item id with
            | [| one |] -> single.Add one |> ignore
            | _ -> ()

        let missing = printable |> Array.filter (single.Contains >> not)

        let faults = [
            if stopIds.Length = 0 then
                LayerSkipError.Unsupported(
                    "a grammar without a stop id",
                    "name one, or nothing would end the text"
                )
            if missing.Length > 0 then
                LayerSkipError.Unsupported(
                    $"a grammar over a vocabulary without a token for '{char missing[0]}' alone",
                    "take a model whose vocabulary has the characters of ASCII"
                )
        ]

        // What the inside of a string allows is most of the work, and every grammar's.
        tokens.Reach(JsonText.text, JsonText.text.Between) |> ignore
        let machine = GrammarMachine(grammar, tokens)
        Check.all faults (GrammarState(machine, Array.copy stopIds, machine.Start, false))
