/// Texts under a grammar: what models write, and what speculation makes of it.
module LayerSkip.Tests.GrammarConstraintTests

open System.IO
open Expecto
open LayerSkip
open LayerSkip.Tests.GrammarSupport
open LayerSkip.Tests.Support
open LayerSkip.Tests.Tiny

Backend.ensure ()

/// A vocabulary of 24 tokens in which all texts of some patterns can be spelled; the last ends a text.
let private tokens =
    [|
        "a"
        "b"
        "c"
        "ab"
        "bc"
        "abc"
        "ca"
        "0"
        "1"
        "2"
        "01"
        "12"
        "-"
        "-1"
        "a-"
        "x"
        "y"
        "xy"
        ","
        ",a"
        "b,"
        "aa"
        "cc"
        ""
    |]
    |> Array.map utf8
    |> TokenBytes.ofBytes

let private patterns = [
    "(ab|c)+(-[0-2]+)?"
    "[abc]{3,9},x?y"
    "[a-c]*(-1,[abc]+)*"
    "(aa|b){2}c?[012]{4,}y"
]

/// The vocabulary lacks most of ASCII, which no pattern needs here.
let private constraintOf (pattern: string) : TokenConstraint =
    let machine = GrammarMachine(Grammar.regex pattern |> Check.getOrRaise, tokens)
    GrammarConstraint.ofState (GrammarState(machine, [| 23 |], machine.Start, false))

let private textOf (completion: Completion) =
    completion.TokenIds |> Array.collect tokens.Item |> System.Text.Encoding.UTF8.GetString

let private isWhole (pattern: string) (completion: Completion) =
    completion.Finish = FinishReason.Length
    || System.Text.RegularExpressions.Regex.IsMatch(textOf completion, $"^(?:{pattern})\\z")

let private properties =
    testList "random models" [
        testPropertyWithConfig
            (settings 60)
            "self-speculation under a grammar writes plain decoding's text, and the grammar's"
        <| fun (case: Case) (choice: byte) ->
            let pattern = patterns[int choice % patterns.Length]

            withWeights Dtype.F32 case.Model (fun weights ->
                let complete strategy =
                    Generation.complete
                        weights
                        None
                        {
                            options strategy 40 with
                                StopIds = [| 23 |]
                                Rules.Constraint = Some(constraintOf pattern)
                        }
                        case.Prompt
                    |> Check.getOrRaise

                let plain = complete Strategy.Autoregressive
                let fast =
                    complete (Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft))
                Expect.equal fast.TokenIds plain.TokenIds "the same ids"
                Expect.equal fast.Finish plain.Finish "the same end"
                Expect.isTrue (isWhole pattern plain) $"{pattern}: {textOf plain}")

        testPropertyWithConfig
            (settings 30)
            "what is drawn under a grammar is the grammar's too, drafted or not"
        <| fun (case: Case) (choice: byte) ->
            let pattern = patterns[int choice % patterns.Length]

            withWeights Dtype.F32 case.Model (fun weights ->
                for strategy in
                    [
                        Strategy.Autoregressive
                        Strategy.SelfSpeculative(exit case.Model.Config.Layers case.Exit, case.Draft)
                    ] do
                    let completion =
                        Generation.complete
                            weights
                            None
                            {
                                options strategy 40 with
                                    StopIds = [| 23 |]
                                    Sampling = Sampling.Filtered(1.5, 0, 1.0, 0.0)
                                    Rules.Constraint = Some(constraintOf pattern)
                            }
                            case.Prompt
                        |> Check.getOrRaise

                    Expect.isTrue (isWhole pattern completion) $"{pattern}: {textOf completion}")
    ]

let private schemas = [
    """{"type":"object","properties":{"a":{"type":"integer"},"b":{"oneOf":[{"type":"string","maxLength":9},{"type":"string","pattern":"^[a-m]"}]}},"oneOf":[{"required":["a"]},{"required":["b"]}]}"""
    """{"type":"object","properties":{"name":{"type":"string","maxLength":12},"age":{"type":"integer","minimum":0,"maximum":120},"pets":{"type":"array","items":{"enum":["cat","dog","owl"]},"maxItems":3}},"required":["name","age","pets"]}"""
    """{"type":"array","items":{"type":"object","properties":{"x":{"type":"number","minimum":-1,"maximum":1},"ok":{"type":"boolean"}},"required":["x","ok"]},"minItems":2,"maxItems":2}"""
    """{"anyOf":[{"type":"string","format":"date"},{"type":"string","pattern":"^[A-Z][a-z]{2,8}$"}]}"""
]

/// Greedy texts of a model under schemas, from two prompts: how many were whole.
let private onModel (path: string) (prompts: string list) =
    use model = Checkpoint.load path None Device.Cpu |> Check.getOrRaise
    let layers, draft = Checkpoint.exitAndDraft model
    let early = ExitLayer.TryCreate(model.Config.Layers, layers) |> Check.getOrRaise

    [
        for schema in schemas do
            let rule = GrammarConstraint.create (grammarOf schema) model.StopIds model |> Check.getOrRaise

            for prompt in prompts do
                let complete strategy =
                    Generation.complete
                        model.Weights
                        model.Tokenizer
                        {
                            GenerationOptions.greedy strategy 120 with
                                StopIds = model.StopIds
                                Rules.Constraint = Some rule
                        }
                        (Tokenizer.encode model.Tokenizer.Value prompt)
                    |> Check.getOrRaise

                let plain = complete Strategy.Autoregressive
                let fast = complete (Strategy.SelfSpeculative(early, draft))
                Expect.equal fast.TokenIds plain.TokenIds $"the same ids under {schema}"
                Expect.equal fast.Text plain.Text "the same text"

                if plain.Finish = FinishReason.Stop then
                    Expect.isTrue (isValid schema plain.Text.Value) $"{schema}: {plain.Text.Value}"
                    1
                else
                    0
    ]
    |> List.sum

let private models = [
    testCase "stories-10m, which knows no JSON, writes what a schema allows, drafted or not" (fun () ->
        let whole =
            onModel (Path.Combine(root, "models", "stories-10m")) [ "Once upon a time"; "Lily said:" ]
        Expect.isGreaterThan whole 3 "texts that end")

    sharedTest "so does SmolLM2" [ "smollm2-135m-instruct"; "model.gguf" ] (fun path ->
        let whole = onModel path [ "A person in JSON: " ]
        Expect.isGreaterThan whole 1 "texts that end")

    testCase "constraints are made once a name, and the last ones are kept" (fun () ->
        use model =
            Checkpoint.load (Path.Combine(root, "models", "stories-10m")) None Device.Cpu
            |> Check.getOrRaise
        let kept = GrammarConstraints(model, 2)
        let made = ref 0

        let get name =
            let make () =
                made.Value <- made.Value + 1
                Grammar.choices [ name ]

            kept.Get(name, model.StopIds, make) |> Check.getOrRaise

        let first = get "a"
        Expect.isTrue (obj.ReferenceEquals(first, get "a")) "the same"
        Expect.equal made.Value 1 "once"
        get "b" |> ignore
        get "a" |> ignore
        get "c" |> ignore
        Expect.isTrue (obj.ReferenceEquals(first, get "a")) "used last, kept"
        get "b" |> ignore
        Expect.equal made.Value 4 "b was let go"
        let elsewhere = kept.Get("b", [| 7 |], fun () -> Grammar.choices [ "b" ])
        Expect.isFalse
            (obj.ReferenceEquals(Check.getOrRaise elsewhere, get "b"))
            "another end, another constraint"
        Expect.isError (kept.Get("d", model.StopIds, fun () -> Grammar.choices [])) "faults are passed on")
]

[<Tests>]
let tests = testList "grammar constraint" (properties :: models)
