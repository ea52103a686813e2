module LayerSkip.Tests.EvalReferenceTests

open Expecto
open LayerSkip
open LayerSkip.Tests.Support

Backend.ensure ()

let private text name = sharedPath [ "text"; name ]

/// Cross entropy and agreement of perplexity at the exits that are asked for.
let private exits (model: string list) (options: EvalOptions) =
    use checkpoint = Checkpoint.load (sharedPath model) None Device.Cpu |> Check.getOrRaise
    let task = EvalTasks.find "perplexity" |> Check.getOrRaise
    let plan = Eval.plan checkpoint task options Shard.whole |> Check.getOrRaise
    let cells = Eval.run (fun _ _ -> ()) None plan |> Check.getOrRaise
    let report = Eval.report EvalTasks.all "" plan.Header cells |> Check.getOrRaise

    report,
    [
        for _, metrics in report.Summary.Exits ->
            let value name = (metrics |> List.find (fun (metric: EvalMetric) -> metric.Name = name)).Value
            value "cross_entropy", value "agreement"
    ]

let private near what (expected: float list) (found: float list) =
    for expected, found in List.zip expected found do
        Expect.isLessThan (abs (found - expected)) 0.02 $"{what}: {found}, {expected}"

let private smol = [ "smollm2-135m-instruct"; "model.gguf" ]

let private windows file exits = {
    EvalOptions.ofData [ text file ] with
        ExitLayers = exits
        Limit = Some 7
        Text = { Documents = false; Window = Some 512; MaxChars = Some 30_000 }
}

// The figures of ../shared/data/README.md: transformers in float32.
[<Tests>]
let tests =
    testList "evaluation of reference models" [
        sharedTest "stories260K on 100 stories, by exit" [ "stories260K"; "config.json" ] (fun _ ->
            let options = {
                EvalOptions.ofData [ text "tinystories-valid.txt" ] with
                    Limit = Some 100
                    Text = { Documents = true; Window = None; MaxChars = None }
            }

            let report, found = exits [ "stories260K" ] options
            Expect.equal
                (List.find (fst >> (=) "tokens") report.Summary.Counts |> snd)
                34_101
                "predicted tokens"
            near "cross entropy" [ 13.770; 6.933; 3.724; 2.198; 1.2745 ] (List.map fst found)
            near "agreement" [ 0.011; 0.044; 0.201; 0.501; 1.0 ] (List.map snd found))

        sharedTest "SmolLM2-135M on TinyStories, by exit" smol (fun _ ->
            let _, found = exits smol (windows "tinystories-valid.txt" [ 1; 10; 20; 24; 28; 29; 30 ])
            near "cross entropy" [ 14.96; 19.86; 18.02; 11.66; 5.22; 3.90; 2.05 ] (List.map fst found)
            near "agreement" [ 0.07; 0.06; 0.20; 0.35; 0.52; 0.58; 1.0 ] (List.map snd found))

        sharedTest "SmolLM2-135M on WikiText-2, by exit" smol (fun _ ->
            let _, found = exits smol (windows "wikitext2_test.txt" [ 1; 10; 20; 24; 28; 29; 30 ])
            near "cross entropy" [ 16.51; 22.36; 22.78; 16.11; 7.69; 5.77; 3.30 ] (List.map fst found))
    ]
