/// What a run is told: recipes, and its options in JSON.
module LayerSkip.Tests.RecipeTests

open System
open System.IO
open Expecto
open FsCheck
open LayerSkip
open LayerSkip.Tests.TrainingSupport

let private options = optionsOf paper

[<Tests>]
let tests =
    testList "training: recipes" [
        testProperty "each preset fits each model"
        <| fun (PositiveInt layers) (PositiveInt steps) ->
            let layers = 2 + layers % 40

            Recipe.presets
            |> List.forall (fun (_, make) -> Result.isOk (Recipe.tryBuild layers steps 0L (make layers)))

        testCase "the paper's, in a model of 32 layers" (fun () ->
            let recipe name = Recipe.tryPreset name 32 |> ok
            Expect.equal (recipe "continual").Exits (ExitRule.Rotational(8, 0.2)) "table 9, Llama2 7B"
            Expect.equal (recipe "scratch").Exits (ExitRule.Rotational(31, 0.2)) "from scratch"
            Expect.equal (recipe "scratch").Time DropoutShape.Exponential "S(t)"
            Expect.equal (recipe "code").Exits (ExitRule.Rotational(16, 1.0)) "code"
            Expect.equal (recipe "fine-tune").Exits (ExitRule.Gradual 1.0) "TOPv2"
            Expect.equal ((recipe "fine-tune").Dropout, (recipe "code").Dropout) (0.2, 0.1) "p_max")

        testCase "rules are read as they are written" (fun () ->
            for rule in
                [
                    ExitRule.LastOnly
                    ExitRule.All 0.25
                    ExitRule.Rotational(8, 1e-3)
                    ExitRule.Gradual 1.0
                    ExitRule.Emphasis([ 2, 0.5; 4, 0.125 ], 2)
                ] do
                Expect.equal (ExitRule.tryParse (ExitRule.format rule) |> ok) rule "the same"

            for text in
                [
                    ""
                    "rotational"
                    "rotational:x"
                    "emphasis:"
                    "emphasis:1=x"
                    "all:NaN"
                    "last:1"
                ] do
                Expect.isError (ExitRule.tryParse text) text)

        testCase "options come back from JSON as they were" (fun () ->
            let written = {
                options with
                    Recipe = { paper with Exits = ExitRule.Emphasis([ 2, 0.5 ], 1) }
                    ProbeExits = [ 1; 2 ]
                    Layout = Layout.Each
                    Precision = Dtype.BF16
                    Recompute = true
            }

            use stream = new MemoryStream()
            using (new Text.Json.Utf8JsonWriter(stream)) (fun json ->
                json.WriteStartObject()
                TrainingFields.write json written
                json.WriteEndObject())
            use document = Text.Json.JsonDocument.Parse(stream.ToArray())
            let reader = JsonReader("x", document.RootElement)
            Expect.equal (TrainingFields.read reader TrainingFields.nothing) written "the same"
            Expect.isEmpty reader.Faults "no faults")

        testCase
            "every option that JSON lacks or mistakes is named, but for those of later versions"
            (fun () ->
                let faultsOf (text: string) =
                    use document = Text.Json.JsonDocument.Parse text
                    let reader = JsonReader("x", document.RootElement)
                    TrainingFields.read reader TrainingFields.nothing |> ignore
                    reader.Faults |> List.map LayerSkipError.message |> String.concat "\n"

                let found =
                    faultsOf """{"steps": "many", "layout": "loose", "exits": "some", "warmup": 1.5}"""

                for words in
                    [
                        "\"steps\" must be a whole number"
                        "\"layout\" is \"loose\", it must be one of packed, each"
                        "exits is \"some\""
                        "\"warmup\" must be a whole number"
                        "has no \"seed\""
                    ] do
                    Expect.stringContains found words "a fault"

                Expect.isFalse (found.Contains "on_spike" || found.Contains "validation_tokens") "later ones")

        testCase "every option outside its range is named" (fun () ->
            let wrong = {
                options with
                    Steps = 0
                    BatchSize = 0
                    SequenceLength = 97
                    ClipNorm = nan
                    Keep = 0
                    ProbeExits = [ 4 ]
                    Recipe = { paper with Dropout = 1.5; Targets = { Labels = 0.0; LastLayer = 0.0 } }
            }

            Expect.equal (TrainingOptions.faults config wrong |> List.length) 8 "all eight")
    ]
