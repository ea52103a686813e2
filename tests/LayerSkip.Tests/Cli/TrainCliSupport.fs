/// `layerskip train` on the tiny model.
module LayerSkip.Tests.TrainCliSupport

open System
open System.IO
open System.Text.Json
open Expecto
open LayerSkip
open LayerSkip.Tests.FileSupport
open LayerSkip.Tests.CliSupport

/// A folder with a tiny model, `model`, and something to learn, `data.tokens`.
let withData (body: string -> 'T) : 'T =
    withFolder (fun folder ->
        let model = Path.Combine(folder, "model")
        Directory.CreateDirectory model |> ignore
        writeModel model id

        TokenFile.write (Path.Combine(folder, "data.tokens")) [
            for i in 0..40 -> [| for j in 0..19 -> (i + 5 * j) % 24 |]
        ]
        |> Check.getOrRaise
        |> ignore

        body folder)

/// The loss of a log's line, where it is a step's.
let lossOf (line: string) : float option =
    match JsonDocument.Parse(line).RootElement.TryGetProperty "loss" with
    | true, loss -> Some(loss.GetDouble())
    | _ -> None

let quick = typed "--steps=6 --batch-size=2 --sequence-length=8 --validate-every=3 --validation-tokens=14"

let command (folder: string) =
    typed $"train --model {folder}/model --data {folder}/data.tokens --output {folder}/run"

let refuses (arguments: string list) (words: string) = refuses [ words ] arguments
