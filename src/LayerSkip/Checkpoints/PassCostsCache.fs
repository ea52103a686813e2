namespace LayerSkip

open System
open System.Collections.Concurrent
open System.Globalization
open System.IO
open System.Runtime.CompilerServices
open System.Security.Cryptography
open System.Text
open System.Text.Json
open LayerSkip.Kernels

/// What passes take, measured once for a model on a machine: kept as long as the process lives, and in a small file for the
/// next one. The file is a convenience: whatever is wrong with it or its folder, times are measured anew. Nothing is said, but
/// for a folder that somebody named (`remarks`).
[<RequireQualifiedAccess>]
module PassCostsCache =
    /// The environment's variable that names a folder for the files, or turns them off: LAYERSKIP_CACHE=off.
    let variable = "LAYERSKIP_CACHE"

    /// Models and ways to run them that a folder remembers.
    let private mostFiles = 64

    // Some hundred bytes are what this wrote.
    let private mostBytes = 65_536L

    /// What the variable says, where it says something.
    let private said () =
        Environment.GetEnvironmentVariable variable
        |> Option.ofObj
        |> Option.filter (String.IsNullOrWhiteSpace >> not)

    /// Where files lie: where the variable says, else `$XDG_CACHE_HOME/layerskip`, else `~/.cache/layerskip`; None where there is no home, or
    /// they are off.
    let folder () : string option =
        let absolute path = not (String.IsNullOrEmpty path) && Path.IsPathRooted path
        let cache = Environment.GetEnvironmentVariable "XDG_CACHE_HOME"
        let home = Environment.GetFolderPath Environment.SpecialFolder.UserProfile

        match said () with
        | Some "off" -> None
        | Some named -> Some named
        | None when absolute cache -> Some(Path.Combine(cache, "layerskip"))
        | None when absolute home -> Some(Path.Combine(home, ".cache", "layerskip"))
        | None -> None

    /// What a file system or a file that is not ours may answer with.
    let private quietly (fallback: 'T) (work: unit -> 'T) : 'T =
        try
            work ()
        with
        | :? IOException
        | :? UnauthorizedAccessException
        | :? Security.SecurityException
        | :? NotSupportedException
        | :? ArgumentException -> fallback

    /// What the user should know of a folder that the variable names: nothing where files can be written in it, which is tried.
    let remarks () : string list =
        let isWritten (folder: string) =
            quietly false (fun () ->
                Directory.CreateDirectory folder |> ignore
                let trial = Path.Combine(folder, $"passes-{Guid.NewGuid():N}.trial")
                File.Create(trial, 1, FileOptions.DeleteOnClose).Dispose()
                true)

        match said () with
        | Some named when named <> "off" && not (isWritten named) -> [
            $"{variable} is {named}, where no file can be written: what passes cost is measured anew each time; let it name a folder that is yours, or be off"
          ]
        | _ -> []

    /// Names, lengths and times of a model's files of weights: cheap, and another where the model is trained again.
    let private files (path: string) : string list =
        let paths =
            match PathKind.find path with
            | PathKind.Folder ->
                SourceFile.list path "*.safetensors" |> Result.toOption |> Option.defaultValue []
            | PathKind.RegularFile -> GgufParts.all path
            | PathKind.Nothing
            | PathKind.Special -> []

        [
            for path in paths do
                let info = FileInfo path

                if info.Exists then
                    let time = info.LastWriteTimeUtc.ToString("O", CultureInfo.InvariantCulture)
                    $"{info.Name}, {info.Length} bytes, {time}"
        ]

    /// What times are of; each build of ours computes in its own time.
    let private version =
        lazy
            let build (kind: Type) = (kind.Module.ModuleVersionId.ToString "N").Substring(0, 8)

            $"{typeof<PassCosts>.Assembly.GetName().Version} ({build typeof<PassCosts>}, {build typeof<DecoderShape>})"

    /// What costs depend on beside the files, the vocabulary that drafts are chosen from among it.
    let private way (plan: ContextVocabulary option) (weights: Weights) : (string * string) list = [
        "version", version.Value
        "processor", Processor.name ()
        "kernels", CpuKernels.form ()
        "device", $"{weights.Device}"
        "threads", string (CpuKernels.threads ())
        "weights", Weights.description weights
        "compute", Weights.compute weights |> Option.defaultValue "float"
        "kv", Weights.kv weights
        "layers", string weights.Config.Layers
        "draft_vocabulary",
        match plan with
        | Some plan -> $"{plan.Frequent.Length} to {plan.Capacity} ids"
        | None -> "all"
    ]

    let private place (folder: string) (key: (string * string) list) =
        let text = key |> List.map (fun (name, value) -> $"{name}={value}") |> String.concat "\n"
        let hash = SHA256.HashData(Encoding.UTF8.GetBytes text) |> Convert.ToHexStringLower
        Path.Combine(folder, $"passes-{hash.Substring(0, 16)}.json")

    let private rows, draftBase, draftLayer = "rows_ms", "draft_base_ms", "draft_layer_ms"

    /// What a file says of this key, if it says so and says sense.
    let private read (path: string) (key: (string * string) list) : PassCosts option =
        let ofRoot (root: JsonElement) =
            let json = JsonReader(path, root)

            let costs = {
                Rows = Array.ofList (json.Floats rows)
                DraftBase = json.Float(draftBase, nan)
                DraftLayer = json.Float(draftLayer, nan)
            }

            let isOurs = key |> List.forall (fun (name, value) -> json.TryString name = Some value)

            let isSound =
                costs.Rows.Length > 0
                && costs.Rows |> Array.forall (fun ms -> ms > 0.0)
                && costs.Rows |> Array.pairwise |> Array.forall (fun (less, more) -> less <= more)
                && costs.DraftBase >= 0.0
                && costs.DraftLayer >= 0.0

            Ok(
                if isOurs && isSound && json.Faults.IsEmpty then
                    Some costs
                else
                    None
            )

        if PathKind.find path = PathKind.RegularFile && FileInfo(path).Length <= mostBytes then
            Json.load path "" ofRoot |> Result.toOption |> Option.flatten
        else
            None

    /// The oldest go where a folder would hold more than it may.
    let private prune (folder: string) =
        Directory.GetFiles(folder, "passes-*.json")
        |> Array.sortByDescending File.GetLastWriteTimeUtc
        |> Array.indexed
        |> Array.filter (fun (index, _) -> index >= mostFiles)
        |> Array.iter (snd >> File.Delete)

    let private write (folder: string) (path: string) (key: (string * string) list) (costs: PassCosts) =
        let rounded (value: float) = Math.Round(value, 6)

        Directory.CreateDirectory folder |> ignore

        Json.write (fun json ->
            for name, value in key do
                json.WriteString(name, value)

            json |> JsonWrite.array rows costs.Rows (fun ms -> json.WriteNumberValue(rounded ms))
            json.WriteNumber(draftBase, rounded costs.DraftBase)
            json.WriteNumber(draftLayer, rounded costs.DraftLayer))
        |> AtomicFile.writeBytes path
        |> ignore

        prune folder

    /// The costs of a model in a folder of such files: read where a file has them and they fit the machine at hand (`fits`), else measured, and
    /// written where the measurement says that it was undisturbed. A model that lies in no file is measured.
    let internal inFolder
        (folder: string option)
        (measure: unit -> struct (PassCosts * bool))
        (fits: PassCosts -> bool)
        (plan: ContextVocabulary option)
        (checkpoint: Checkpoint)
        : PassCosts =
        let files = quietly [] (fun () -> files checkpoint.Path)

        match folder with
        | Some folder when not files.IsEmpty ->
            let key =
                ("model", Path.GetFullPath checkpoint.Path)
                :: (files |> List.mapi (fun index file -> $"file_{index + 1}", file))
                @ way plan checkpoint.Weights

            let path = place folder key

            match quietly None (fun () -> read path key) with
            | Some costs when fits costs -> costs
            | _ ->
                let struct (costs, isSteady) = measure ()

                if isSteady then
                    quietly () (fun () -> write folder path key costs)

                costs
        | _ ->
            let struct (costs, _) = measure ()
            costs

    /// By weights, and by what they are run with.
    let private known = ConditionalWeakTable<Weights, ConcurrentDictionary<string, Lazy<PassCosts>>>()

    /// What passes of a model take, with drafts that are chosen from a vocabulary in context (None: from all ids): as this process
    /// measured it, as a file has it, or measured now, in 0.3 s and one pass.
    let get (plan: ContextVocabulary option) (checkpoint: Checkpoint) : PassCosts =
        let weights = checkpoint.Weights
        let ways = known.GetValue(weights, fun _ -> ConcurrentDictionary())
        let key = way plan weights |> List.map snd |> String.concat "\n"
        let measure () = PassProfile.trial plan weights
        let fits costs = PassProfile.fits (PassProfile.plain weights) costs
        ways.GetOrAdd(key, fun _ -> lazy (inFolder (folder ()) measure fits plan checkpoint)).Value
