namespace LayerSkip.Server

open System.Text
open System.Text.Json
open System.Threading.Tasks
open Microsoft.AspNetCore.Http
open LayerSkip

/// `/v1/models`, `/health` and `/metrics`.
[<RequireQualifiedAccess>]
module internal Facts =
    /// OpenAI's fields, vLLM's `max_model_len`, and what the playground sets its sliders by.
    let private model (service: Service) (json: Utf8JsonWriter) : unit =
        let model = service.Model
        let exit, draft = Checkpoint.exitAndDraft model.Checkpoint
        json.WriteString("id", model.Name)
        json.WriteString("object", "model")
        json.WriteNumber("created", model.Created.ToUnixTimeSeconds())
        json.WriteString("owned_by", "layerskip")
        json.WriteNumber("max_model_len", model.Config.Context)

        json
        |> JsonWrite.object "layerskip" (fun _ ->
            json.WriteString("family", Family.name model.Config.Family)
            json.WriteNumber("layers", model.Config.Layers)
            json.WriteNumber("exit_layer", exit)
            json.WriteNumber("draft_length", draft)
            json.WriteBoolean("recommended", model.Checkpoint.Recommended.IsSome)
            json.WriteBoolean("chat", Result.isOk (Chat.template model.Checkpoint)))

    /// The list of one.
    let models (service: Service) (context: HttpContext) : Task =
        context
        |> Reply.json (fun json ->
            json.WriteString("object", "list")
            json |> JsonWrite.objects "data" [ () ] (fun () -> model service json))

    /// The one, under its name.
    let modelNamed (service: Service) (context: HttpContext) : Task =
        let asked =
            match context.Request.RouteValues["id"] with
            | :? string as asked -> asked
            | _ -> ""

        service.Model.Check(Some asked)
        |> Reply.orRefuse context (fun () -> Reply.json (model service) context)

    /// Whether requests are taken.
    let health (service: Service) (context: HttpContext) : Task =
        if service.Gate.IsClosed then
            Reply.refuse Refusal.ending context
        else
            Reply.json (fun json -> json.WriteString("status", "ok")) context

    /// Prometheus' text.
    let metrics (service: Service) (context: HttpContext) : Task =
        let text = service.Metrics.Text service.Engine.Counts
        context
        |> Reply.bytes
            StatusCodes.Status200OK
            "text/plain; version=0.0.4; charset=utf-8"
            (System.ReadOnlyMemory(Encoding.UTF8.GetBytes text))
