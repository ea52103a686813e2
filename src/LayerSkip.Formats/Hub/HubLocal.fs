namespace LayerSkip

open System.IO

/// A model that lies in the cache, whole.
type HubSnapshot = {
    Name: HubName
    Commit: string
    /// A folder, or the first of the .gguf files: what a model is loaded from.
    Path: string
    /// The files of the model, as paths inside the repository, with their bytes.
    Files: (string * int64) list
    /// Of `Files`, what came over the network this time.
    Fetched: int64
} with

    /// Of all files.
    member this.Bytes = this.Files |> List.sumBy snd

/// A model in the cache, without a network.
[<RequireQualifiedAccess>]
module internal HubLocal =
    let private inside (snapshot: string) (path: string) = Path.Combine(snapshot, path)

    /// Where a plan's model is loaded from.
    let pathOf (snapshot: string) (plan: HubPlan) : string =
        if plan.IsGguf then inside snapshot plan.Last else snapshot

    /// What the first files of a plan name, and whether a model can be without it.
    let named (snapshot: string) (plan: HubPlan) : (string * bool) list =
        plan.First
        |> List.collect (fun path ->
            match SourceFile.tryReadAll (inside snapshot path) with
            | Ok(Some bytes) ->
                HubFiles.named path bytes |> List.map (fun name -> name, HubFiles.isBinding path)
            | Ok None
            | Error _ -> [])

    /// The model of a commit, where all that it needs is here. A file that it can do without may be missing: nothing tells.
    let find (options: HubOptions) (name: HubName) (commit: string) : HubSnapshot option =
        let snapshot = HubCache.snapshot options name.Repository commit
        let here = HubCache.files snapshot

        match HubFiles.plan name.File here with
        | Error _ -> None
        | Ok plan ->
            let named = named snapshot plan
            let isWhole =
                named |> List.forall (fun (file, isBinding) -> not isBinding || List.contains file here)

            let files =
                plan.First @ plan.Rest @ List.map fst named @ [ plan.Last ]
                |> List.distinct
                |> List.choose (fun file ->
                    HubCache.length (inside snapshot file) |> Option.map (fun length -> file, length))

            if isWhole then
                Some {
                    Name = name
                    Commit = commit
                    Path = pathOf snapshot plan
                    Files = files
                    Fetched = 0L
                }
            else
                None
