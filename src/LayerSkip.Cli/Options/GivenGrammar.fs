namespace LayerSkip.Cli

open System
open LayerSkip

/// What a new text must be, as a command line gives it.
[<RequireQualifiedAccess>]
type internal GivenGrammar =
    /// The schema itself, or a file.
    | JsonSchema of string
    | JsonObject
    | Choices of string
    | Regex of string

[<RequireQualifiedAccess>]
module internal GivenGrammar =
    let private option (given: GivenGrammar) =
        match given with
        | GivenGrammar.JsonSchema _ -> "--json-schema"
        | GivenGrammar.JsonObject -> "--json-object"
        | GivenGrammar.Choices _ -> "--choices"
        | GivenGrammar.Regex _ -> "--regex"

    let private schema (given: string) : string =
        let text = given.TrimStart()

        if text.StartsWith '{' || text = "true" || text = "false" then
            text
        else
            Inputs.readText "json-schema" given

    /// The options of a text that follows a grammar, if any.
    let hold
        (grammar: Grammar option)
        (checkpoint: Checkpoint)
        (options: GenerationOptions)
        : GenerationOptions =
        match grammar with
        | None -> options
        | Some grammar ->
            let rule = GrammarConstraint.create grammar options.StopIds checkpoint |> Check.getOrRaise
            { options with Rules.Constraint = Some rule }

    /// The grammar that is meant, if any; the command ends where it is none that we serve. `neverEnds` is set where no id would
    /// end the text.
    let read (neverEnds: bool) (given: GivenGrammar list) : Grammar option =
        match given with
        | [] -> None
        | [ one ] when neverEnds ->
            Inputs.usage
                $"{option one} and --ignore-eos exclude each other: nothing would end the text; leave one out"
        | [ one ] ->
            match one with
            | GivenGrammar.JsonSchema text -> JsonSchemaGrammar.compile (schema text)
            | GivenGrammar.JsonObject -> Ok Grammar.jsonObject
            | GivenGrammar.Choices text ->
                Grammar.choices (List.ofArray (text.Split(',', StringSplitOptions.TrimEntries)))
            | GivenGrammar.Regex pattern -> Grammar.regex pattern
            |> Check.getOrRaise
            |> Some
        | one :: other :: _ ->
            Inputs.usage
                $"{option one} and {option other} exclude each other: a text follows one grammar; leave one out"
